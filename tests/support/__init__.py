"""What several tests share: generated bilingual text, a package index on the loopback address."""
