"""Ways to say that the document does not answer the question, in English and Chinese.

The whole answer must say so: a short grammar of subject, negated verb and object, matched from end to end on text from
:func:`~.text.normalize_span` (lower case, no punctuation, no articles).
"""

from __future__ import annotations

import re

from qwenlong_core.rewards.text import normalize_span

_ADJECTIVES = "(?:given|provided|above|available|supplied|whole|entire|present|current|relevant|cited)"
_SOURCE = rf"""(?:(?:any\ of\ |all\ of\ )?(?:this\ |these\ |our\ )?(?:{_ADJECTIVES}\ )?
    (?:document|text|context|passage|article|paper|report|filing|contract|agreement|policy|story|source|excerpt|content
    |information|material|data|evidence|table|record|author|reference|statement|note|page|section|summary|dataset)s?
    (?:\ {_ADJECTIVES})?)"""
_PLACE = rf"""(?:\ (?:in|from|by|within|with|on|given|using|based\ on|according\ to|anywhere\ in)\ {_SOURCE}
    |\ here|\ anywhere)?"""
_MATTER = r"""(?:(?:this|that|these|such|any|enough|sufficient|relevant|specific|exact|required|requested|necessary
    |needed|explicit|further|clear|definite|conclusive|adequate)\ )*
    (?:it|this|that|so|information|info|answer|answers|question|data|detail|details|figure|number|value|name|date|amount
    |evidence|context|material|fact|facts|basis)"""
_CLAUSE = r"(?:what|who|whom|whose|when|where|which|why|how|whether|if)(?:\ \w+){0,15}"
_OBJECT = rf"(?:\ (?:{_MATTER}|{_CLAUSE}))?"
_PURPOSE = rf"""(?:\ (?:to|for|about|on|regarding|as\ to)
    \ (?:(?:be\ able\ to|fully|reliably|definitively|determining|answering)\ )?
    (?:(?:answer|determine|say|tell|know|conclude|decide|establish|identify|infer|find|give|provide)\ ?)?
    (?:{_MATTER}|{_CLAUSE})?)?"""
_NOT = r"(?:(?:do|does|did)\ not|doesnt|dont|didnt|never|fails?\ to|cannot|can\ not|cant|could\ not|couldnt)"
_SAYS = r"""(?:say|says|mention|mentions|state|states|specify|specifies|tell|tells|disclose|discloses|report|reports
    |give|gives|provide|provides|contain|contains|include|includes|indicate|indicates|answer|answers|reveal|reveals|cover
    |covers|address|addresses|discuss|discusses|describe|describes|clarify|clarifies|explain|explains|offer|offers|show|shows
    |identify|identifies|name|names|define|defines|allow|support|supports|list|lists)"""
_FOUND = r"""(?:answered|determined|known|inferred|found|established|concluded|deduced|derived|ascertained|identified
    |calculated|computed|said|told|decided|verified|located)"""
_TOLD = r"""(?:mentioned|stated|given|provided|specified|available|disclosed|reported|said|answerable|known|found
    |addressed|discussed|described|indicated|included|covered|clear|contained|explained|listed|recorded|revealed|determinable
    |possible\ to\ (?:answer|determine|say|tell|know)|enough\ information)"""
_ENGLISH = rf"""(?:
      (?:question\ |this\ question\ |this\ |it\ |answer\ )?(?:(?:is|it\ is|its)\ )?
      (?:unanswerable|not\ answerable|indeterminable|indeterminate|undetermined|unknown|unspecified|undisclosed
      |unstated)
    | (?:answer\ |question\ |this\ question\ |it\ |this\ |that\ |we\ |i\ )?
      (?:cannot|can\ not|cant|could\ not|couldnt)\ (?:possibly\ )?
      (?:be\ {_FOUND}|(?:answer|determine|tell|know|say|infer))
      {_OBJECT}
    | (?:there\ (?:is|are|was|isnt|arent|wasnt)\ |we\ have\ |due\ to\ )?
      (?:insufficient|not\ enough|(?<=nt\ )enough|(?<=nt\ )sufficient
      |no\ sufficient|inadequate|not\ sufficient|too\ little|no|lack\ of)
      \ (?:(?:relevant|such|specific|sufficient|clear|explicit|direct|conclusive)\ )*
      (?:information|evidence|data|context|details?|basis|mention)
      (?:\ (?:is|are|was|were)\ {_TOLD})?(?:\ of\ (?:this|that|it))?
    | (?:information|evidence|data|context|answer|answer\ to\ (?:this\ |that\ )?question|it|this|that)?\ ?
      (?:(?:is|are|was|were|it\ is)\ )?
      (?:not|isnt|arent|wasnt|nowhere|never)\ (?:(?:explicitly|directly|clearly|specifically|actually)\ )?
      (?:{_TOLD}|in\ {_SOURCE}|sufficient|enough|to\ be\ found)
    | (?:information|evidence|data|context|{_SOURCE})\ (?:is|are)
      \ (?:insufficient|inadequate|missing|lacking|absent|silent|unavailable)
    | (?:there\ is\ |there\ was\ )?no\ answer(?:\ (?:is|was|can\ be|could\ be)\ (?:{_TOLD}|{_FOUND}|possible))?
    | none\ of\ {_SOURCE}\ {_SAYS}{_OBJECT}
    | (?:{_SOURCE}|it|they)\ (?:{_NOT})\ (?:(?:explicitly|directly|clearly|specifically|actually)\ )?{_SAYS}
      (?:\ (?:us\ )?(?:{_MATTER}|{_CLAUSE}))?
    | {_SOURCE}\ (?:gives?|provides?|contains?|offers?|has|have)\ (?:no|insufficient)\ (?:such\ )?{_MATTER}
    | no\ {_SOURCE}\ {_SAYS}{_OBJECT}
    | (?:it\ is\ )?(?:impossible|not\ possible)\ to\ (?:answer|determine|say|tell|know|conclude|establish|infer)
      {_OBJECT}
    ){_PURPOSE}{_PLACE}"""
_ZH_SOURCE = r"""(?:(?:根据|从|由|在)?(?:现有|所给|给定|提供的?|上述|以上|该|本|原)?
    (?:文中|文本|文章|文档|文件|原文|材料|资料|报告|上下文|信息|内容|段落|文)(?:里|中|内)?(?:并)?)?"""
_ZH_MATTER = r"""(?:(?:该|此|这个?|相关|有关|任何|足够|充分|具体|明确)?的?
    (?:信息|内容|数据|答案|问题|资料|细节|证据|依据|这一点|情况))?"""
_CHINESE = rf"""(?:{_ZH_SOURCE}(?:问题)?(?:并|尚|均|都|也)?(?:
      (?:无法|不能|难以|不可)(?:从{_ZH_SOURCE}中?)?(?:直接|准确)?
      (?:回答|确定|得知|判断|推断|知道|得出|推知|确认|获知|找到){_ZH_MATTER}
    | (?:未|没有|没|不)(?:有)?(?:明确|直接|具体)?
      (?:提及|提到|说明|给出|提供|披露|涉及|包含|记载|指出|交代|说|写明|显示){_ZH_MATTER}
    | (?:信息|资料|证据|数据|依据)(?:并)?(?:不足|不够|不充分)(?:以)?(?:(?:回答|确定|判断){_ZH_MATTER})?
    | (?:缺乏|缺少|没有|无)(?:足够|相关|充分|有关|明确)?的?(?:信息|资料|证据|数据|依据|答案)
      (?:(?:来|可以|可)?(?:回答|确定|判断){_ZH_MATTER})?
    | 不详|未知|不得而知|不清楚|无从得知|不可知|无解
    ))"""
_SAYS_SO = re.compile(f"(?:{_ENGLISH}|{_CHINESE})", re.VERBOSE)
_TURNS = re.compile(
    r"\b(?:but|however|except|although|though|yet|or|nor|until|probably|likely|maybe|perhaps|only)\b|但|或"
)
"""A clause that goes on to name an answer."""
_MAX_CHARS = 300
_SIMPLIFIED = str.maketrans(
    "沒無確說資訊給報據問題覆斷從據資檔證數據認獲顯寫關", "没无确说资讯给报据问题复断从据资档证数据认获显写关"
)


def says_unanswerable(answer: str) -> bool:
    """Whether the whole answer says that the document does not answer the question."""
    if len(answer) > 10 * _MAX_CHARS:
        return False
    said = normalize_span(answer)
    if len(said) > _MAX_CHARS or _TURNS.search(said):
        return False
    return _SAYS_SO.fullmatch(said.translate(_SIMPLIFIED).replace("资讯", "信息")) is not None
