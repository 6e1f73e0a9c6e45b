"""Linked articles in Chinese, with the same kinds of questions and facts.

They test that the pipeline does not assume English: Chinese has no spaces between words, full-width
punctuation, and answers of two or three characters.
"""

from __future__ import annotations

from random import Random

from qwenlong_core.data.prompts import answer_form
from qwenlong_core.data.synthesis.document import Block, Draft, Fact, Kind, Shape, choose_kind

UNANSWERABLE = ("无法回答", "unanswerable")
_ASK = "如果文中没有说明，请回答“无法回答”。"

_SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕"
_GIVEN = "明华强丽军洋勇艳杰娟涛敏静磊霞平刚桂英玉兰春梅建国志文晓东海燕云飞思远雪松子涵雨晨"
_TOWN_FIRST = "临清安宁永长新东南西北平和德兴福广汉江湖泉龙凤石金银青白黑红"
_TOWN_LAST = "江河山州阳城川溪桥港湾岭丘泽"
_LAND_FIRST = "云星月岚沧朔炎霁澜翠琼"
_LAND_LAST = "泽原岛海峰谷野洲"
_WORK_FIRST = (
    "沉默的",
    "金色的",
    "遥远的",
    "破碎的",
    "隐秘的",
    "寂静的",
    "最后的",
    "燃烧的",
    "漫长的",
    "无名的",
    "古老的",
    "温柔的",
)
_WORK_LAST = (
    "灯塔",
    "镜子",
    "果园",
    "航程",
    "影子",
    "花园",
    "信件",
    "钟楼",
    "岛屿",
    "诺言",
    "季节",
    "窗户",
    "车站",
    "海浪",
    "铃声",
)

_CLOSERS = (
    "资料齐全。", "说法不一。", "详见索引。", "此事广为人知。", "档案向公众开放。", "照片保存至今。",
    "评论家意见不同。", "部分细节尚有争议。", "游客多在夏季到来。", "后来立了一块石碑。", "其余不详。",
    "书信留存。", "当时没有报道。", "学者们对此做过长期研究。", "旧书中有些名字的写法不同。", "举办过展览。",
    "事实经过核对。", "译本随后出版。", "本页由编辑部在春季最后一次审阅。", "这个故事常在学校里讲述。",
    "修订版正在计划之中。", "那几年的记录并不完整。",
)  # fmt: skip
_FILM_REMARKS = (
    "拍摄用了九个星期，多年以后才找到自己的观众。",
    "外景大多在一座农场里完成，那年夏天雨水很多。",
    "配乐先行录制，画面按音乐剪辑。",
    "主角先后请过四位演员，最后由一位地方剧团的演员出演。",
)
_PERSON_REMARKS = (
    "朋友们记得他说话风趣，每封来信都当天回复。",
    "早年在印刷厂工作，因此一直喜欢地图和旧书。",
    "后来教了十年书，好几位学生也成了名人。",
    "早期作品只署名字的缩写，其中一些最近才得到确认。",
)
_PLACE_REMARKS = (
    "那里有一个每周开放的集市，还有一座上个世纪的桥。",
    "河水每隔几年就会上涨，磨坊附近的房子都建在高处。",
    "冬天山口关闭，货物改走山谷里的路。",
    "老城区曾经失火，后来在原地重建。",
)


class _World:
    def __init__(self, rng: Random, shape: Shape) -> None:
        self.rng, self.shape = rng, shape
        self._used: set[str] = set()

    def _new(self, *parts: str | tuple[str, ...], pattern: str) -> str:
        for attempt in range(1_000_000):
            name = pattern.format(*(self.rng.choice(part) for part in parts))
            if attempt >= 16:
                # Short names are running out: draw a longer one.
                name = pattern.format(*(self.rng.choice(part) + self.rng.choice(parts[-1]) for part in parts))
            if name not in self._used:
                self._used.add(name)
                return name
        raise RuntimeError(f"every name of the form {pattern!r} is used: ask for a shorter document")

    def person(self) -> str:
        return self._new(_SURNAMES, _GIVEN, _GIVEN, pattern="{}{}{}")

    def town(self) -> str:
        return self._new(_TOWN_FIRST, _TOWN_FIRST, _TOWN_LAST, pattern="{}{}{}市")

    def land(self) -> str:
        return self._new(_LAND_FIRST, _LAND_FIRST, _LAND_LAST, pattern="{}{}{}国")

    def work(self) -> str:
        return self._new(_WORK_FIRST, _SURNAMES, _WORK_LAST, pattern="《{}{}家{}》")

    def film(self, work: str, person: str) -> Block:
        text = f"{work}是一部{self.rng.randint(1930, 2019)}年的电影，导演是{person}。"
        return Block(text, (Fact(work, "director", person),))

    def birth(self, person: str, town: str) -> Block:
        return Block(f"{person}出生在{town}。", (Fact(person, "birthplace", town),))

    def schooling(self, person: str, town: str) -> Block:
        return Block(f"{person}在{town}上学。", (Fact(person, "school town", town),))

    def place(self, town: str, land: str) -> Block:
        return Block(f"{town}位于{land}。", (Fact(town, "country", land),))

    def filler(self, rng: Random) -> Block:
        kind = rng.randrange(3)
        if kind == 0:
            block, remarks = self.film(self.work(), self.person()), _FILM_REMARKS
        elif kind == 1:
            block, remarks = self.birth(self.person(), self.town()), _PERSON_REMARKS
        else:
            block, remarks = self.place(self.town(), self.land()), _PLACE_REMARKS
        return Block(block.text + rng.choice(remarks), block.facts)

    def near_misses(self, *more: Block) -> tuple[Block, ...]:
        blocks = list(more)
        while len(blocks) < self.shape.distractors:
            person = self.person()
            blocks += [self.film(self.work(), person), self.birth(person, self.town())]
        return tuple(blocks[: self.shape.distractors])


def _bridge(world: _World, hops: int, answerable: bool = True) -> Draft:
    work, person, town, land = world.work(), world.person(), world.town(), world.land()
    chain = [world.film(work, person), world.birth(person, town), world.place(town, land)][:hops]
    asked = {2: f"{work}的导演出生在哪座城市？", 3: f"{work}的导演出生在哪个国家？"}[hops]
    school = world.schooling(person, world.town())
    misses = world.near_misses(school) if answerable else world.near_misses()
    work_text = "".join(block.text for block in chain)
    answers: tuple[str, ...] = ((town, land)[hops - 2],)
    if not answerable:
        chain = [chain[0], school]
        answers, work_text = UNANSWERABLE, f"导演是{person}。文中没有说明{person}的出生地。"
    answer_type = "span" if answerable else "unanswerable"
    return Draft(
        domain="multihop",
        answer_type=answer_type,  # type: ignore[arg-type]
        kind=f"bridge_{hops}" if answerable else "unanswerable",
        steps=hops,
        title="",
        question=asked + _ASK,
        answers=answers,
        solution=f"<think>{work_text}</think>\n\n{answer_form(answer_type, answers[0])}",
        query={"op": "path", "start": work, "path": ["director", "birthplace", "country"][:hops]},
        evidence=tuple(chain),
        distractors=misses,
        filler=world.filler,
        closers=_CLOSERS,
        language="zh",
    )


KINDS: dict[str, Kind] = {
    "bridge_2": Kind(2, 3, lambda world: _bridge(world, 2)),
    "bridge_3": Kind(3, 3, lambda world: _bridge(world, 3)),
    "unanswerable": Kind(2, 1, lambda world: _bridge(world, 2, answerable=False)),
}


def draft(rng: Random, shape: Shape) -> Draft:
    """Linked articles in Chinese with their question."""
    return choose_kind(KINDS, shape, rng).make(_World(rng, shape))
