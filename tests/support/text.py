"""Readable-looking English and simplified Chinese text from small grammars of our own; equal seeds give equal text."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages._documents import write_shard


def _words(table: str) -> dict[str, list[str]]:
    """Word lists from lines `key: word word ...`; an indented line continues the one above."""
    rows = [row.partition(":") for row in re.sub(r"\n +", " ", table.strip()).split("\n")]
    return {key: words.split() for key, _, words in rows}


_EN = _words("""
person: farmer teacher sailor merchant doctor painter baker student soldier widow traveller gardener printer judge
    miller shepherd weaver captain clerk engineer fisherman grandmother neighbour musician carpenter librarian hunter
    tailor poet dancer guard beggar queen nurse
thing: letter lantern basket bridge garden ladder window mirror hammer blanket kettle wagon bottle curtain ribbon
    needle candle compass barrel anchor violin notebook map saddle clock engine bell umbrella chair table kite
    needlework rope pearl drum pillow plough pencil flute coin
place: harbour village market forest valley station kitchen library orchard castle river mountain meadow workshop
    tavern chapel island desert theatre museum courtyard mill square tower field
quality: old quiet narrow golden heavy broken careful honest distant bitter gentle curious stubborn pale bright hollow
    ancient humble cheerful lonely patient crooked silver wooden warm cold familiar strange useful rare soft solid
    plain costly sharp damp new rough secret common
action: carried repaired painted noticed hid borrowed followed counted measured watched forgot described sold polished
    buried washed examined promised remembered opened lifted mended guarded found
motion: walked returned hurried travelled climbed wandered sailed marched drifted stepped
manner: slowly carefully gladly silently quickly rarely often bravely politely suddenly proudly calmly
time: yesterday tonight tomorrow once later afterwards meanwhile today
season: spring summer autumn winter morning evening midnight harvest
feeling: hope sorrow courage patience anger wonder kindness hunger pride comfort silence memory
""")
_ZH = _words("""
person: 农夫 老师 船长 商人 医生 画家 学生 士兵 祖母 旅客 园丁 法官 牧童 织女 渔翁 邻居 琴师 木匠 裁缝 猎户 诗人 史官
    侍卫 舞者 游侠 樵夫 书生 将军 厨子 铁匠 少年 姑娘 和尚
thing: 书信 灯笼 篮子 木桥 花园 梯子 窗户 镜子 锤头 毛毯 茶壶 马车 酒瓶 帘幕 丝带 绣针 蜡烛 罗盘 铜铃 胡琴 笔记 地图
    马鞍 钟表 雨伞 桌椅 石碑 宝剑 竹筐 棉衣 玉佩 铁锅 陶罐 风筝 棋盘 砚台 毛笔 纸扇 算盘 钓竿 木犁 绳索 珍珠 香炉 屏风
    枕席 鼓乐
place: 港口 村庄 市集 森林 山谷 车站 厨房 书楼 果园 城堡 江边 高山 草原 作坊 酒店 寺庙 海岛 沙漠 戏院 院落 广场 塔顶
    田野 渡口 驿站 学堂 宫殿 池塘 瀑布 码头 街巷 窑洞 牧场 悬崖 温泉 麦地
quality: 古老 安静 狭窄 金色 沉重 破旧 细心 诚实 遥远 苦涩 温柔 好奇 固执 苍白 明亮 空荡 谦虚 欢乐 孤独 耐心 弯曲 银白
    温暖 寒冷 熟悉 奇怪 有用 稀罕 宽阔 干净 柔软 坚硬 鲜艳 朴素 华丽 潮湿 崭新 粗糙 精致 锋利 轻巧 神秘 普通 昂贵
action: 搬走 修好 描绘 发现 藏起 借来 跟随 数过 量过 观看 忘记 讲述 卖掉 擦亮 埋下 洗净 检查 记得 打开 举起 缝补 守护
    找到 送给 赠予 拆开 抬起 收集 挑选 丢失 珍惜 拥有 交换 烧毁 欣赏 制造
motion: 走到 回到 赶往 来到 爬上 漫步于 航行至 奔向 飞过 经过
manner: 慢慢地 小心地 高兴地 默默地 匆忙地 偶尔 常常 勇敢地 礼貌地 忽然 骄傲地 平静地
time: 昨天 今夜 明早 从前 后来 随即 当时 如今 翌日 不久
season: 春天 夏日 秋季 冬夜 清晨 黄昏 半夜 丰收时节 下雪时 落雨天
feeling: 希望 忧愁 胆量 耐性 怒气 惊讶 善意 饥饿 骄傲 安慰 沉默 回忆 信念 悔恨 欲望 疑虑 感激 羞愧 思念 自由 智慧
""")
_EN_FORMS = (
    "The {quality} {person} {action} the {thing} near the {place}.",
    "{time}, a {person} {motion} {manner} to the {quality} {place} and {action} a {thing}.",
    "In the {season} every {person} of the {place} had more {feeling} than {feeling}.",
    '"Who {action} my {thing}?" asked the {person}, and the {quality} {person} answered with {feeling}.',
    "When the {season} came, the {thing} was still {quality}, but nobody in the {place} {action} it.",
    "She {action} the {thing} because the {person} had {motion} away without {feeling}.",
    "There was no {thing} in the {place}, only a {quality} {thing} and the {feeling} of the {season}.",
    "It is said that the {person} {manner} {action} a {quality} {thing} before the {person} {motion} home.",
    "Nobody had {action} such a {quality} {thing} since the last {season}.",
    "{time}, with great {feeling}, they {motion} from the {place} to the {place}.",
    "Both {thing} and {thing} lay in the {quality} {place}, and a {person} {action} them.",
    "If you ever see the {person}, bring a {thing}; the {season} will be {quality}.",
    "Some say {feeling} is {quality}, others that {feeling} belongs to the {person} alone.",
    "Far from the {place}, where the {quality} {person} lived, a {thing} was {manner} {action}.",
)
_ZH_FORMS = (
    "{quality}的{person}在{place}{action}了{thing}。",
    "{time}，一位{person}{manner}{motion}{place}，{action}了一件{quality}的{thing}。",
    "{season}里，{place}的{person}都有{feeling}，却没有{feeling}。",
    "“谁{action}了我的{thing}？”{person}问道，{quality}的{person}带着{feeling}回答。",
    "到了{season}，那{thing}还是很{quality}，可是{place}里没有人{action}它。",
    "她{action}{thing}，因为{person}已经{motion}{place}，心中满是{feeling}。",
    "{place}没有{thing}，只有{quality}的{thing}和{season}的{feeling}。",
    "据说{person}{manner}{action}了{quality}的{thing}，然后{person}才{motion}家乡。",
    "自上一个{season}以来，谁也不曾{action}如此{quality}的{thing}。",
    "{time}，他们怀着{feeling}，由{place}{motion}{place}。",
    "{thing}与{thing}都放在{quality}的{place}，一名{person}把它们{action}了。",
    "若你遇见那{person}，请带上{thing}；{season}一定会很{quality}。",
    "有些人以为{feeling}是{quality}的，另一些人说{feeling}只属于{person}。",
    "离{place}不近的地方住着{quality}的{person}，{thing}被{manner}{action}。",
)
_GRAMMAR = {"en": (_EN, _EN_FORMS, " "), "zh": (_ZH, _ZH_FORMS, "")}


def sentences(lang: str, seed: int | str) -> Iterator[str]:
    """Endless sentences in `en` or `zh`."""
    words, forms, _ = _GRAMMAR[lang]
    draw = random.Random(f"{lang} {seed}")  # text seeds pass through SHA-512: the same on every machine
    while True:
        sentence = re.sub(r"\{(\w+)\}", lambda gap: draw.choice(words[gap[1]]), draw.choice(forms))
        yield re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", sentence[0].upper() + sentence[1:])


def text(lang: str, seed: int | str, size: int) -> str:
    """Paragraphs of three to seven sentences, one a line, of at least `size` UTF-8 bytes (and under 2 kB more)."""
    source, joint = sentences(lang, seed), _GRAMMAR[lang][2]
    draw = random.Random(f"paragraphs {lang} {seed}")
    paragraphs: list[str] = []
    length = 0
    while length < size:
        paragraphs.append(joint.join(next(source) for _ in range(draw.randint(3, 7))))
        length += len(paragraphs[-1].encode()) + 1
    return "\n".join(paragraphs)


def documents(lang: str, seed: int | str, count: int, size: int, source: str | None = None) -> list[dict[str, Any]]:
    """`count` rows of the documents table (docs/data.md), each with a text of at least `size` bytes of its own."""
    name = source or f"made-{lang}"
    rows = []
    for number in range(count):
        body = text(lang, f"{seed} {number}", size)
        rows.append(
            {
                "doc_id": f"{name}/{number}",
                "source": name,
                "path": str(number),
                "licence": "CC0-1.0",
                "lang": lang,
                "title": None,
                "author": None,
                "date": None,
                "raw_sha256": hashlib.sha256(body.encode()).hexdigest(),
                "text": body,
            }
        )
    return rows


def write_documents(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as a stage output would stand on disk: `folder`/documents/<source>-00000.parquet, one per source."""
    for source in dict.fromkeys(row["source"] for row in rows):
        write_shard(folder / "documents" / f"{source}-00000.parquet", (row for row in rows if row["source"] == source))
