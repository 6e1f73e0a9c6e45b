"""The words that may stand beside a number, by what they do to it. Also printed in ``docs/rewards.md``.

A word in none of these tables, the scales, the currencies or the units makes the number undecided.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(word.strip() for word in text.replace("\n", ",").split(",") if word.strip())


ABOUT = _words("""
approximately, approx, about, almost, nearly, around, roughly, circa, ca, c, some, exactly, precisely, just,
only, near, environ, ungefähr, etwa, rund, casi, aproximadamente, 约, 約, 大约, 大約, 左右, 上下, 约为, 約為, 近,
将近, 大概, 仅, 仅为, 약, or so, or thereabouts, give or take
""")
"""How exact the number is."""
LEADING = _words("""
a, an, the, this, that, of, equals, equal, equal to, is, it, its, was, are, were, be, been, has, have, had,
would, will, in, in total, i.e, ie, e.g, or about, namely, so, therefore, thus, hence, then, and, by, at, to,
for, from, on, with, between, as, there, their, they, he, she, we, which amounts to, amounts to, amounted to,
comes to, came to, reached, stood at, totaled, totaled at, totalled, totaling, rounded, respectively, each, all,
both, out, also, altogether, overall, combined, per, que, est, ist, de, der, die, das, el, la, le, les, los, un,
une, und, y, et, during, over all, until, since, after, before, per annum, pa, annual,
final, is equal to, given, stated, reported, recorded, expected,
actual, estimated, net, gross, basic, diluted, common, ordinary, preferred, outstanding, average, mean, median,
weighted, consolidated, unaudited, audited, adjusted, cumulative, aggregate, approximate, exact, fiscal,
calendar, full, new, additional, other, different, distinct, separate, unique, more precisely, simply, total,
totals, sum, value, amount, answer, figure, number, count, result, difference, change, increase, growth, rise,
gain, increased, grew, rose, gained, net of, here, now, per share of, shown, above-mentioned, them, these, those,
what, who, own, 为, 是, 的, 共, 共计, 合计, 总计, 一共, 总共, 共有, 有, 达, 达到, 达到了, 了, 个, 個, 名, 位, 家,
次, 项, 条, 份, 张, 台, 辆, 套, 间, 座, 本, 增长, 增加, 上升, 增长了, 增加了, 该, 年均, 每年, 平均, 整, 正, 其,
金额, 金额为, 总额, 总额为, 答案, 答案是, 计, 即, 也就是, 也就是说, 折合, 等于, です, であります, である, だ, は,
が, の, で, に, を, 年度, 期, 입니다, 이다, 은, 는, 의, 총, 명, 개, 合計, 計
""")
"""Grammar and description: these say which number it is, and leave the number alone."""
COUNTED = _words("""
share, stock, unit, item, piece, employee, person, people, worker, customer, client, user, subscriber, member,
participant, student, teacher, patient, passenger, household, family, child, children, man, men, woman, women,
adult, player, team, game, goal, point, vote, seat, store, shop, branch, office, plant, factory, facility, site,
location, property, building, house, home, apartment, room, hotel, restaurant, bed, vehicle, car, truck, bus,
train, ship, vessel, plane, aircraft, engine, machine, server, device, phone, computer, screen, product, brand,
model, version, type, kind, category, class, group, segment, division, department, subsidiary, company,
companies, firm, business, businesses, bank, country, countries, state, city, cities, town, village, region,
province, district, island, river, mountain, lake, bridge, road, airport, station, school, university, hospital,
church, museum, park, award, prize, medal, title, championship, season, episode, series, film, movie, song,
album, single, track, book, novel, chapter, volume, edition, article, paper, story, poem, character, word,
letter, sentence, line, table, figure, note, document, report, file, record, case, claim, contract, agreement,
clause, section, provision, lease, loan, bond, option, warrant, award, grant, transaction, order, purchase,
payment, dividend, installment, instalment, tax, fee, charge, rate, ratio, percentage, proportion, fraction,
level, score, rank, index, price, cost, costs, expense, revenue, income, profit, earnings, sales, turnover,
margin, asset, liability, liabilities, equity, debt, cash, capital, fund, investment, deposit, balance,
inventory, inventories, receivable, payable, goodwill, depreciation, amortization, amortisation, interest,
salary, salaries, wage, bonus, pension, premium, benefit, contribution, obligation, budget, spending,
expenditure, backlog, production, output, capacity, volume, weight, height, length, width, depth, distance, area,
size, age, time, speed, temperature, population, area, step, stage, phase, round, part, component, element,
layer, node, edge, parameter, token, example, sample, question, experiment, test, trial, dataset, task, language,
method, feature, dimension, epoch, iteration, run, degree of freedom, co2, co2e, h2o, water, oil, gas, gold,
silver, copper, coal, steel, rice, wheat, corn, milk, operating, taxes, ebitda, ebit, eps, capex, opex, fte,
ftes, headcount, 人, 人员, 员工, 股, 件, 户, 岁, 号, 人民, 人口, 利润, 净利润, 收入, 营业收入, 营收, 总资产,
资产, 成本, 费用, 名员工, 人の, 社, 株
""")
"""What is counted. Right after a number it is its unit; any other word counts too if the question or gold holds it."""
SEVERAL = _words("""
either, neither, nor, versus, vs, oder, ou, else, maybe, perhaps, possibly, alternatively, otherwise, could,
might, may, unless, ±, \\pm, 也许, 可能, 或许, または, 혹은
""")
"""Alternatives: with one of these the text commits to no number."""
OR = _words("or, 或, 或者")
"""An alternative unless the same number stands on both sides: ``0.25, or 25%``."""
BOUND = _words("""
not, no, than, least, most, over, under, above, below, less, more, greater, fewer, up to, except, excluding,
without, but, never, anything, isn, wasn, aren, weren, doesn, didn, exceed, exceeds, exceeding, within, max,
maximum, min of, minimum, beyond, upwards, non, 不, 非, 以上, 以下, 超过, 超過, 不足, 不到, 未満, 至少, 最多,
多于, 少于, 以内, 大于, 小于, 不是, 没有, 이상, 이하, <, >, ≤, ≥, ≠, ?, \\leq, \\geq, \\le, \\ge, \\neq, \\ne,
\\lt, \\gt
""")
"""Bounds and negations: the number is only a limit, or is denied."""
DIRECTION = _words("""
decrease, decreased, decreases, decreasing, decline, declined, declines, declining, drop, dropped, drops, fall,
fell, fallen, loss, losses, lost, reduce, reduced, reduction, reductions, lower, lowered, lowering, down, short,
shortfall, shorter, deficit, negative growth, shrank, shrunk, shrinkage, contraction, ▲, ▼, ↓, 下降, 减少, 亏损,
減少, 下跌, 降低, 跌, 损失, 赤字
""")
"""The sign in words ("a decrease of 31"): only a reader can tell whether the gold's sign is meant."""
ARITHMETIC = _words("""
twice, thrice, double, doubled, doubles, triple, tripled, quadruple, half, half of, halved, one-half of, squared,
cubed, square, cube, root, log, ln, lg, logarithm, exp, exponential, sin, cos, tan, sqrt, power, plus, divided,
multiplied, product, factorial, modulo, mod, times as, reciprocal, inverse, to the power of, raised, per hundred,
opposite, quotient, remainder, √, ÷, \\sqrt, \\log, \\ln, \\exp, \\sin, \\cos, \\tan, \\div, 倍的, 一半, 两倍,
平方, 平方根, 立方, 半, 翻倍
""")
"""Words that compute a new number, which is never done here."""
REASON = _words("""
which, because, since, calculated, computed, based on, representing, resulting, derived, obtained, compared,
according, given that, as stated, as shown, as reported, as given, as per, as the, as calculated, as disclosed,
as can, as well, up from, down from, due, where, 因为, 由于, 根据, なぜなら
""")
"""The answer ends here and its reason begins: ``25%, which is 30 over 120``."""
CONTRAST = _words("not, and not, rather than, instead of, as opposed to, 而不是, 而非, 不是")
"""Before a second number: that one is denied, and the first one named (``32.4, not 31.2``)."""
DOUBT = (
    SEVERAL
    | OR
    | _words("""
not, isn, wasn, but, wait, actually, rather, instead, correction, corrected, no, should, likely, probably, sorry,
wrong, incorrect, mistake, 不, 不是, 而是, 更正
""")
)
"""In a reason these words take the answer back, so that it is read as a part of the answer."""
REFERENCE = _words("""
note, notes, page, pages, p, pp, table, tables, figure, figures, fig, section, sections, sec, item, exhibit,
schedule, appendix, article, clause, paragraph, chapter, footnote, row, column, line, passage, document, doc,
slide, annex, 附注, 表, 注
""")
"""With a number: a place in the document (``see Note 12``)."""
PERIOD = _words("""
in, for, during, by, since, through, throughout, as of, as at, at, over, ended, ending, from, between, until, on,
after, before, as, within, the
""")
"""Before a year, a date or a duration: the period that the number refers to."""
MONTHS = _words("""
january, february, march, april, may, june, july, august, september, october, november, december, jan, feb, mar,
apr, jun, jul, aug, sep, sept, oct, nov, dec
""")
DATE = MONTHS | _words("""
fy, fiscal, calendar, year, years, quarter, quarters, q1, q2, q3, q4, h1, h2, half, first, second, third, fourth,
last, next, past, previous, prior, preceding, following, same, current, then, end, start, beginning, close,
ended, ending, the, a, of, month, months, period, periods, term, horizon, life, ad, year-end, full, entire,
whole, interim, twelve-month, st, nd, rd, th
""")
"""What a period is made of."""
ANCHOR = MONTHS - {"may"} | _words("""
fy, q1, q2, q3, q4, h1, h2, quarter, prior year, year, period, term
""")
"""What makes a period of itself; other words of a date need a year or a duration beside them."""
DENOMINATION = _words("""
in, expressed, stated, measured, reported, figures, amounts, values, of, all, are, is, units, presented, de, d,
whole
""")
"""Before a scale or currency that holds for the number: ``32 (in thousands of US dollars)``."""
SIGNS = _words("negative, minus, 负, 負, マイナス, 마이너스, moins, menos, △")
"""Words and signs that make a number negative, beside - and the parentheses of a balance sheet."""
ROUNDED = _words("""
rounded, to, the, nearest, one, two, three, four, decimal, decimals, place, places, integer, significant, whole,
number, figures, digit, digits, up, off, after, point, tenth, hundredth, hundredths, percent, cent, dollar
""")
"""How a number was rounded, from ``rounded`` on."""
