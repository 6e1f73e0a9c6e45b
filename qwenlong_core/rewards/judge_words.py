"""What a text says that is no answer, in every language in which answers are read.

This module holds patterns only; :mod:`~qwenlong_core.rewards.candidate` applies them. A pattern may be wide, because
words that also stand in a gold answer do not count.
"""

from __future__ import annotations

import re


def _words(*parts: str) -> re.Pattern[str]:
    return re.compile("|".join(parts), re.IGNORECASE | re.DOTALL)


INSTRUCTION = _words(
    r"\[\s*\[|\]\s*\]|<\s*[|/]|\|\s*>|^\s*(?:system|assistant|user|judge|grader)\s*:|\n\s*(?:system|assistant"
    r"|user)\s*:",
    # English
    r"\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:instruction|above|previous|prior|rule|prompt)",
    r"\b(?:you|judge|grader|verifier)\b.{0,30}\b(?:must|should|shall|have\s+to|need\s+to|please)\b",
    r"\bplease\b.{0,30}\b(?:accept|agree|approve|confirm|mark|grade|score|rate|judge|treat|consider|count)\b",
    r"\b(?:say|output|reply|respond|answer|return|print|write|mark|grade|score|rate|accept|count|treat)\b.{0,30}"
    r"\b(?:yes|correct|equivalent|true|full|right|equal|match(?:ing|es)?)\b",
    r"\bverdict\b|\bequivalent\b|candidate_answer|reference_answers",
    # Chinese, simplified and traditional
    r"(?:忽略|无视|無視|忘记|忘記).{0,12}(?:指令|指示|要求|规则|規則|提示|以上|之前|前面|上述)",
    r"(?:请|請|你|您|评委|評委|裁判|评审|評審|法官).{0,12}(?:判|输出|輸出|回答|回复|回覆|打分|给分|給分|满分|滿分|接受|认定|認定)",
    r"(?:判|视|視|算|评|評)(?:定|作)?(?:为|為|成|作)?\s?(?:正确|正確|一致|等价|等價|满分|滿分|通过|通過)",
    r"(?:回答|输出|輸出|回复|回覆|判断|判斷)\W{0,3}(?:yes|true|是|对|對|正确|正確)",
    # French, Spanish, German, Italian
    r"\bignor(?:e[zr]?|a\w*|ier\w*)\b.{0,40}(?:instru|consigne|istruz|anweis|pr[ée]c[ée]dent|anterior|vorherig|obig"
    r"|r[èe]gl|regl|regol|regel)",
    r"\b(?:r[ée]pond\w*|dis|dites|[ée]cri\w+|affiche\w*|note[zr]?|accepte\w*)\b.{0,30}\b(?:oui|yes|correcte?|vraie?"
    r"|juste|exacte?)\b",
    r"\b(?:responde\w*|contesta\w*|di|diga|escrib\w+|marca\w*|acepta\w*)\b.{0,30}\b(?:s[íi]|yes|correct[oa]"
    r"|verdader[oa])\b",
    r"\b(?:antworte\w*|sage?n?|schreib\w*|gib|geben|bewerte\w*|werte\w*|akzeptier\w*)\b.{0,30}\b(?:ja|yes|richtig"
    r"|korrekt|wahr)\b",
    r"\b(?:rispond\w+|di'|dica|scriv\w+|segna\w*|accett\w+|valuta\w*)\b.{0,30}\b(?:s[ìi]|yes|corrett[oa]|ver[oa]"
    r"|giust[oa])\b",
    r"\b(?:le\s+juge|el\s+juez|der\s+richter|il\s+giudice|vous|usted|sie|lei)\b.{0,20}\b(?:doi[ts]|devez|debe|muss"
    r"|müssen|soll(?:en)?|deve)\b",
    # Russian, Japanese, Korean
    r"(?:игнориру|забуд|пренебрег)\w*.{0,40}(?:инструкц|указан|правил|предыдущ|выше)",
    r"\b(?:ответь|скажи|напиши|выведи|оцени|поставь|прими|считай)\w*.{0,30}\b(?:да|yes|верн\w*|правильн\w*)",
    r"(?:指示|命令|規則|ルール|上記|以上).{0,8}(?:無視|忘れ)|(?:yes|はい|正解|正しい|一致)」?\s?と(?:答え|回答|出力|判定|返|して|みなし)",
    r"(?:答え|回答|出力|判定|採点|返答|評価)(?:して(?:ください|下さい|くれ)?|せよ|しろ|てください|なさい)\s*。?$",
    r"(?:지시|명령|규칙|위의?\s?내용).{0,8}무시|(?:yes|예|네|정답|정답이?라|맞다|동일)['\"」]?\s?(?:이?라고|고|으로|로)\s?(?:답|대답|출력|판정|채점|평가|처리)",
    r"(?:대답|출력|판정|채점|평가|답변|처리)\s?(?:하세요|하십시오|해\s?주세요|해\s?줘|해라|하라)",
)
"""It tells its reader what to do."""

REFERENCE = _words(
    r"\b(?:reference|gold(?:en)?|candidate|ground[\s-]?truth|expected|correct|right|intended|official|model|target"
    r"|above|same|other|"
    r"first|second|provided|given)\s+(?:answer|response|solution|label)s?\b|\banswer\s+(?:[12]|key)\b",
    r"\b(?:same|identical|equal|matches|matching|agrees?|consistent|accord\w*|as|what(?:ever)?)\b.{0,25}"
    r"\b(?:the|your|this|that)\s+(?:reference|gold(?:en)?|ground[\s-]?truth|answer|key|label|grader|judge|rubric"
    r"|solution)\b",
    r"\bwhatever\b|\bwhichever\b(?!\s+(?:is\s+(?!correct|right|true|expected)|of|comes|occurs|happens))",
    r"(?:参考|參考|标准|標準|正确|正確|预期|預期|期望|给定|給定|黄金|黃金|上述|以上|上面|官方)的?\s?(?:答案|回答|答复|答覆)",
    r"(?:与|與|和|跟|同|如).{0,8}(?:答案|参考|參考).{0,8}(?:一致|相同|一样|一樣|等价|等價|所[说說示述])",
    r"r[ée]ponse\s+(?:de\s+r[ée]f[ée]rence|attendue|correcte|exacte|officielle|mod[èe]le)|\bbonne\s+r[ée]ponse\b",
    r"respuesta\s+(?:de\s+referencia|esperada|correcta|oficial|modelo)|lo\s+que\s+(?:diga|dice)\s+la\s+referencia",
    r"referenzantwort|musterantwort|musterl[öo]sung|(?:richtige|korrekte|erwartete|obige)[nrs]?\s+antwort",
    r"risposta\s+(?:di\s+riferimento|attesa|corretta|giusta|ufficiale)",
    r"\b(?:m[êe]me|identique|conforme|misma?|igual|id[ée]ntic[oa]|gleich|identisch|dasselbe|entspricht|stess[oa]"
    r"|uguale)\b.{0,25}"
    r"\b(?:r[ée]ponse|r[ée]f[ée]rence|respuesta|referencia|antwort|referenz|l[öo]sung|risposta|riferimento)",
    r"(?:эталонн|правильн|ожидаем|верн|образцов)\w*\s+ответ|(?:совпада|идентич|соответств|так(?:ой|ая)\s+же"
    r"|то\s+же).{0,25}(?:ответ|эталон)",
    r"(?:参考|模範|正しい|期待される|標準|上記の)の?(?:解答|回答|答え)|正解と(?:同じ|一致|等し)|正解の?通り",
    r"(?:참조|참고|모범|올바른|기대|기준|위의)\s?(?:답안|답변|답|정답)|정답과\s?(?:같|동일|일치)",
)
"""It names the answer that it is compared with."""

ELSEWHERE = _words(
    r"\b(?:see|as|refer\s+to|same\s+as|per|cf\.?)\b[^.]{0,20}\b(?:above|below|earlier|previously|before)\b"
    r"|^\W*(?:the\s+)?(?:above|same|ditto|idem|it|this|that|cf|см)\W*$",
    r"同上|如上|见上|見上|如前|见前|見前|参见|參見|详见|詳見|上面(?:提到|所[说說])",
    r"\b(?:voir|cf\.?)\s+(?:ci-dessus|plus\s+haut)|\bcomme\s+(?:ci-dessus|indiqu[ée])|\b(?:v[ée]ase"
    r"|ver)\s+(?:m[áa]s\s+)?arriba|\bcomo\s+(?:arriba|se\s+indic)",
    r"\b(?:siehe|wie)\s+oben\b|\b(?:vedi|come)\s+sopra\b|\bсм\.?\s+выше|\bкак\s+(?:указано\s+)?выше",
    r"上記(?:の通り|のとおり|と同|参照|を参照)|前述の(?:通り|とおり)|위와\s?(?:같|동일)|위(?:를)?\s?참조|상동|앞서\s?말한",
)
"""It points to another place instead of answering."""

ALTERNATIVE = _words(
    r"\b(?:or|either|alternatively|maybe|perhaps|possibly|otherwise|one\s+of|(?:if|unless)\s+not|could\s+be"
    r"|might\s+be|may\s+be|"
    r"(?:not|un)\s?sure|i\s+guess|any\s+of)\b|\s[/|]\s|/(?=\S{2})|;",
    r"或|也许|也許|可能是|大概是|要么|要麼|抑或|不确定|不確定|还是(?=\S)|還是(?=\S)",
    r"\b(?:ou(?:\s+bien)?|peut-[êe]tre|quiz[áa]s?|tal\s+vez|oder|entweder|vielleicht|m[öo]glicherweise|oppure"
    r"|forse)\b|(?-i:\s[ou]\s)",
    r"\b(?:или|либо|возможно|может\s+быть|наверное)\b",
    r"または|又は|あるいは|もしくは|それとも|かもしれ|たぶん|多分|おそらく|또는|혹은|아니면|아마|일\s?수도|어쩌면",
)
"""It offers several answers, or takes back the one it gives."""

JOINED = re.compile(
    r"\s(?:and|&|plus|as\s+well\s+as|along\s+with|und|et|y|e|и)\s|\s?(?:以及|[和与與及跟]|と|및|와|과)\s?",
    re.IGNORECASE,
)
LISTED = re.compile(r",\s+(?:and\s+)?|[，、;；|\n]|\s/\s|\s(?:and|&|und|et|y|e|и)\s")
