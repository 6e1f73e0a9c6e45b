"""Currencies: signs, codes and words, and which of them can mean the same. Also printed in ``docs/rewards.md``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Currency:
    """What a sign, code or word for a currency may mean."""

    sure: frozenset[str]
    """ISO codes it means for certain; for ``¥`` these are two, and both are accepted."""
    perhaps: frozenset[str] = frozenset()
    """Further ISO codes it may mean: ``$`` is USD, but an Australian writes AUD so."""

    def narrowed(self, other: Currency) -> Currency | None:
        """Both together, as in ``US$5 dollars``; ``None`` if they contradict each other."""
        sure = self.sure & other.sure
        perhaps = (self.sure | self.perhaps) & (other.sure | other.perhaps)
        return Currency(sure or perhaps, perhaps - sure) if perhaps else None


CODES: dict[str, str] = {
    "usd": "US$, US-$, US dollar, US dollars, U.S. dollar, U.S. dollars, United States dollars, US-Dollar, 美元, 美金,"
    "米ドル",
    "eur": "€, euro, euros, 欧元, 歐元, ユーロ, 유로, евро",
    "gbp": "£, UK£, pounds sterling, British pounds, 英镑, 英鎊, ポンド",
    "jpy": "JP¥, yen, Japanese yen, 日元, 日圆, 円, 엔",
    "cny": "RMB, CN¥, yuan, renminbi, Chinese yuan, 人民币, 人民幣, 元人民币, 元人民幣",
    "inr": "₹, Rs, Indian rupee, Indian rupees, 卢比",
    "krw": "₩, Korean won, won, 韩元, 원",
    "chf": "Swiss franc, Swiss francs, SFr, 瑞士法郎",
    "aud": "A$, AU$, Australian dollar, Australian dollars, 澳元",
    "cad": "C$, CA$, Can$, Canadian dollar, Canadian dollars, 加元",
    "hkd": "HK$, Hong Kong dollar, Hong Kong dollars, 港元, 港币, 港幣",
    "twd": "NT$, New Taiwan dollar, New Taiwan dollars, 新台币, 新臺幣, 新台幣",
    "nzd": "NZ$, New Zealand dollar, New Zealand dollars",
    "sgd": "S$, SG$, Singapore dollar, Singapore dollars, 新元",
    "mxn": "Mex$, MX$, Mexican peso, Mexican pesos",
    "php": "₱, Philippine peso, Philippine pesos",
    "ars": "AR$, Argentine peso, Argentine pesos",
    "clp": "CLP$, Chilean peso, Chilean pesos",
    "cop": "COL$, Colombian peso, Colombian pesos",
    "brl": "R$, real, reais, Brazilian real, Brazilian reais",
    "sek": "Swedish krona, Swedish kronor",
    "nok": "Norwegian krone, Norwegian kroner",
    "dkk": "Danish krone, Danish kroner",
    "isk": "Icelandic króna",
    "rub": "₽, ruble, rubles, rouble, roubles, рубль, рублей, 卢布",
    "try": "₺, Turkish lira, TL",
    "zar": "rand, South African rand",
    "pln": "zł, zloty, zlotys",
    "czk": "Kč, koruna, Czech koruna",
    "huf": "forint, forints",
    "thb": "฿, baht",
    "idr": "Rp, rupiah",
    "myr": "RM, ringgit",
    "vnd": "₫, dong",
    "ils": "₪, NIS, shekel, shekels",
    "aed": "dirham, dirhams",
    "sar": "riyal, riyals",
    "ngn": "₦, naira",
    "pkr": "Pakistani rupee, Pakistani rupees",
    "lkr": "Sri Lankan rupee, Sri Lankan rupees",
    "npr": "Nepalese rupee, Nepalese rupees",
    "uah": "₴, hryvnia",
}
"""ISO code, and every other way to write it; the code itself is always known."""

_DOLLARS = "aud cad hkd twd nzd sgd"
SHARED: dict[str, tuple[str, str]] = {
    "$, dollar, dollars, 刀, 달러, ドル": ("usd", f"{_DOLLARS} mxn ars clp cop brl"),
    "¥, 圆": ("jpy cny", ""),
    "元, 块": ("cny", "usd hkd twd sgd"),
    "rupee, rupees": ("inr", "pkr lkr npr"),
    "pound, pounds, quid": ("gbp", "egp"),
    "peso, pesos": ("peso", "mxn php ars clp cop"),
    "franc, francs, Franken": ("franc", "chf"),
    "krona, kronor, krone, kroner, kr": ("krona", "sek nok dkk isk"),
    "lira, lire": ("lira", "try"),
}
"""Words of several currencies: what they mean unless more is said, and what else they may mean."""

SUBUNITS: dict[str, tuple[str, str]] = {
    "cent, cents, ¢, 센트, セント": ("usd eur", f"{_DOLLARS} zar"),
    "美分": ("usd", ""),
    "penny, pence": ("gbp", "usd"),
    "centime, centimes": ("eur chf", ""),
}
"""Hundredths of a currency: what they are a hundredth of."""


def _entries(table: dict[str, tuple[str, str]]) -> dict[str, Currency]:
    return {
        word.strip().casefold(): Currency(frozenset(sure.split()), frozenset(perhaps.split()))
        for words, (sure, perhaps) in table.items()
        for word in words.split(",")
    }


def currency_words() -> dict[str, Currency]:
    """Every way to write a currency, folded."""
    words = {code: Currency(frozenset({code})) for code in CODES}
    for code, names in CODES.items():
        names += "".join(f", {name.strip()[:-1]} $" for name in names.split(",") if name.endswith("$"))
        words |= {name.strip().casefold().replace("u.s.", "us"): words[code] for name in names.split(",")}
    return words | _entries(SHARED)


def subunit_words() -> dict[str, Currency]:
    """Every way to write a hundredth of a currency, folded."""
    return _entries(SUBUNITS)


def agree(answer: Currency | None, gold: Currency | None) -> bool | None:
    """Whether two currencies are the same; ``None`` if they may be. One that is left out fits any."""
    if answer is None or gold is None or answer.sure & gold.sure:
        return True
    possible = (answer.sure | answer.perhaps) & (gold.sure | gold.perhaps)
    return None if possible else False
