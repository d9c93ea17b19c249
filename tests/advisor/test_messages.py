"""The planner's own sentences."""

from __future__ import annotations

import re

from ftadvise.advisor.texts import message_templates


def test_the_planners_sentences_say_the_same_in_both_languages() -> None:
    for message_id, template in message_templates().items():
        assert template.keys() == {"en", "zh", "about"}, message_id
        assert set(re.findall(r"{\w+}", template["en"])) == set(re.findall(r"{\w+}", template["zh"])), message_id
        assert re.search("[一-鿿]", template["zh"]), message_id
