"""The statistics of a document, one column each, and the words and limits that they are counted by."""

from __future__ import annotations

from stages.clean.characters import SCRIPTS

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Gopher, appendix A.1.1
JAVASCRIPT = ("javascript",)  # C4, section 2.2, and the five strings of its code that stand for "policy"
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
LOREM_IPSUM = ("lorem ipsum",)
PHRASES = JAVASCRIPT + POLICY + LOREM_IPSUM
SHORT_LINE = 30  # columns, a Han character being two wide: FineWeb's 30 characters, 15 in Chinese
FEW_WORDS = 3  # C4 keeps lines of at least three words
TOP = (2, 3, 4)  # the n of "top n-gram" and "duplicate n-grams" in Gopher, table A1
DUPLICATE = (5, 6, 7, 8, 9, 10)

COLUMNS = (
    *SCRIPTS,  # characters by class
    "simplified",  # Han characters that only simplified text has, and only traditional text
    "traditional",
    "newlines",
    "words",  # runs of characters that are not blank
    "word_characters",
    "alphabetic_words",  # with a letter in them
    "units",  # words of letters and digits; Han characters, kana and hangul syllables each by itself
    "unit_characters",
    "stop_words",  # different ones, letters of either case
    "ellipses",  # runs of three full stops or more, and of the character
    "curly_braces",  # opening ones
    "lorem_ipsum",
    "lines",  # not blank; without the blanks at their ends
    "line_characters",
    "bullet_lines",
    "ellipsis_lines",
    "terminal_lines",
    "short_lines",
    "few_word_lines",
    "javascript_lines",
    "policy_lines",
    "duplicate_lines",  # that repeat an earlier line
    "duplicate_line_characters",
    "paragraphs",  # runs of lines
    "duplicate_paragraphs",
    "duplicate_paragraph_characters",
    *(f"top_{n}_gram_characters" for n in TOP),  # of the most frequent n-gram of units, times its number; 0 where none recurs
    *(f"duplicate_{n}_gram_characters" for n in DUPLICATE),  # covered by n-grams that stood earlier, each counted once
)
AT = {name: index for index, name in enumerate(COLUMNS)}
