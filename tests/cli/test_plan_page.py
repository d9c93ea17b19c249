"""The page of a plan: whole, honest, closed to the network, safe against names, in both languages."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from page_reader import Page

import ftadvise
from ftadvise import api
from ftadvise.advisor.plan_types import NoPlanError, Plan
from ftadvise.cli import main
from ftadvise.rendering.plan_page import plan_page, shortfall_page
from ftadvise.rendering.units import gib, rate

LANGUAGES = ("en", "zh")
_ENGLISH_SENTENCE = re.compile(r"[A-Za-z]{2,}(?: [a-z]{2,}){4,}")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return ftadvise.plan("Qwen-7B", gpu="RTX 4090")


@pytest.fixture(scope="module")
def shortfall() -> NoPlanError:
    with pytest.raises(NoPlanError) as raised:
        ftadvise.plan("Llama-2-70b-hf", gpu="RTX 4090")
    return raised.value


def _html(plan: Plan, lang: str = "en") -> str:
    return plan_page(plan, lang, frontier=api.fit_frontier(plan), plan_path=Path("ftadvise-plan.yaml"))


@pytest.fixture(scope="module", params=LANGUAGES)
def page(request: pytest.FixtureRequest, plan: Plan) -> Page:
    return Page(_html(plan, request.param))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_pages_are_well_formed_and_load_nothing(lang: str, plan: Plan, shortfall: NoPlanError) -> None:
    for html in (_html(plan, lang), shortfall_page(shortfall, lang)):
        page = Page(html)
        assert html.startswith("<!DOCTYPE html>\n")
        assert page.problems == []
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(set(ids)) == len(ids) > 0
        assert page.all("html") == [{"lang": "zh-CN" if lang == "zh" else "en"}]
        assert {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "form", "base"} == set()
        assert not any(name.startswith("on") or name in ("src", "srcset") for _, attributes in page.elements for name in attributes)
        assert "url(" not in page.styles
        assert "@import" not in page.styles
        assert page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"].startswith("default-src 'none'")


def test_links_lead_to_sections_or_to_the_sources_of_rules(page: Page, plan: Plan) -> None:
    ids = {attributes.get("id") for _, attributes in page.elements}
    sources = " ".join(reason.source for reason in plan.reasons)
    targets = [attributes["href"] for attributes in page.all("a")]
    assert len(targets) > 8
    for target in targets:
        assert target[1:] in ids if target.startswith("#") else target in sources


def test_what_the_plan_says_is_on_the_page(page: Page, plan: Plan) -> None:
    lang = "zh" if page.all("html")[0]["lang"] == "zh-CN" else "en"
    joined = re.sub(r"\s+", " ", page.words)
    memory = plan.estimate.memory
    for size in (memory.device_used_bytes, memory.low_bytes, memory.high_bytes, memory.available_bytes):
        assert gib(size) in joined
    for alternative in plan.alternatives:
        assert re.sub(r"\s+", " ", alternative.reason.in_language(lang)) in joined
    for reason in plan.reasons:
        assert reason.rule in page.texts
        assert reason.source in joined or "http" in reason.source
    for field in dataclasses.fields(plan.recipe):
        assert field.name in page.texts
    assert "ftadvise run ftadvise-plan.yaml" in page.texts
    assert ftadvise.__version__ in joined


def test_the_bar_shows_the_components_in_proportion_to_the_card(plan: Plan) -> None:
    page, card = Page(_html(plan)), plan.estimate.hardware.gpus[0].memory_bytes
    widths = [float(attributes["width"].rstrip("%")) for attributes in page.all("rect", class_="segment")]
    weights = plan.estimate.memory.components.weights
    assert widths[0] == pytest.approx(100 * weights / card, abs=0.01)
    speed = plan.estimate.throughput
    assert speed is not None
    assert max(speed.shares.values()) * 100 == pytest.approx(max(widths[1:]), abs=0.01)


def test_the_map_is_the_estimator_s(plan: Plan) -> None:
    """Every cell: the class says whether it fits, and the recommended recipe's cell has the plan's own figures."""
    frontier = api.fit_frontier(plan)
    page = Page(_html(plan))
    cells = [attributes for attributes in page.all("td") if "title" in attributes]
    estimates = [cell for row in frontier.rows for cell in row if cell]
    assert len(cells) == len(estimates) > 20
    for attributes, estimate in zip(cells, estimates, strict=True):
        assert ("no" in attributes["class"].split()) == (not estimate.memory.fits)
    own = [estimate for attributes, estimate in zip(cells, estimates, strict=True) if "own" in attributes["class"].split()]
    assert [each.recipe for each in own] == [plan.recipe]
    assert own[0].memory.high_bytes == plan.estimate.memory.high_bytes
    assert plan.estimate.throughput is not None
    assert page.texts.count(rate(plan.estimate.throughput.tokens_per_second)) >= 2  # in a tile and in the map


def test_names_cannot_become_markup(plan: Plan) -> None:
    hostile = "</title></style><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&lt;b\u202e\x00"
    model = dataclasses.replace(plan.estimate.model, id=hostile)
    gpu = dataclasses.replace(plan.estimate.hardware.gpus[0], name=hostile)
    hardware = dataclasses.replace(plan.estimate.hardware, gpus=(gpu,))
    recipe = plan.recipe.replace(target_modules=("<script>", hostile))
    estimate = dataclasses.replace(plan.estimate, model=model, hardware=hardware, recipe=recipe)
    bad = dataclasses.replace(plan, estimate=estimate)
    html = plan_page(bad, "en", frontier=api.fit_frontier(plan), plan_path=Path("a b'<i>.yaml"))
    page = Page(html)
    assert page.problems == []
    assert page.all("script") == page.all("img") == page.all("i", onerror="alert(1)") == []
    assert "<script>alert(1)</script>" in page.words
    assert "\u202e" not in html
    assert "\x00" not in html


def test_the_chinese_page_has_no_english_sentence(plan: Plan, shortfall: NoPlanError) -> None:
    for html in (_html(plan, "zh"), shortfall_page(shortfall, "zh")):
        page = Page(html)
        assert [words for words in page.texts if _ENGLISH_SENTENCE.search(words)] == []


def test_the_page_when_nothing_fits_says_what_is_missing(shortfall: NoPlanError) -> None:
    page = Page(shortfall_page(shortfall, "en"))
    assert shortfall.message.en in page.words
    assert shortfall.leanest is not None
    memory = shortfall.leanest.memory
    assert gib(memory.high_bytes - memory.available_bytes) in page.words
    assert len(page.all("rect", class_="over")) == 1
    for change in shortfall.changes:
        assert change.text.en in page.words


def _luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_colours_can_be_told_apart_from_what_they_stand_on(page: Page) -> None:
    """WCAG 2.2: 4.5 for text, 3 for what is drawn."""
    light, dark = re.findall(r":root \{(.*?)\}", page.styles, re.DOTALL)
    on_page = ["ink", "quiet", "link"]
    for theme in (light, dark):
        colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", theme))
        segments = [name for name in colors if re.fullmatch(r"[cn]\d", name)]
        texts = [(name, ground) for name in on_page for ground in ("page", "panel")]
        texts += [(name, f"{name}-bg") for name in ("good", "fair", "bad")]
        texts += [("ink", f"fast{step}") for step in range(1, 5)] + [("on", name) for name in segments]
        low = {(one, other): round(_contrast(colors[one], colors[other]), 2) for one, other in texts}
        assert {pair: value for pair, value in low.items() if value < 4.5 and not (pair[0] == "on" and value >= 3)} == {}
        assert {name for name in segments if _contrast(colors[name], colors["page"]) < 3} == set()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `plan` in an empty folder; returns the exit code and what stderr said."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int | str | None, str]:
        with pytest.raises(SystemExit) as ended:
            main(["plan", *arguments])
        return ended.value.code, capsys.readouterr().err

    return run


def test_the_command_writes_the_page_and_keeps_an_older_one(cli: Any) -> None:
    asked = ("--model", "Qwen-7B", "--gpu", "RTX 4090", "--html", "plan.html")
    code, err = cli(*asked)
    assert code == 0
    assert "plan.html" in err
    first = Path("plan.html").read_bytes()
    assert Page(first.decode()).problems == []
    code, _ = cli(*asked, "--lang", "zh")
    assert code == 0
    assert Path("plan.html.bak").read_bytes() == first
    assert 'lang="zh-CN"' in Path("plan.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in Path().iterdir()) == ["ftadvise-plan.yaml", "ftadvise-plan.yaml.bak", "plan.html", "plan.html.bak"]


def test_the_command_writes_nothing_where_the_page_may_not_go(cli: Any) -> None:
    Path("notes.html").write_text("<p>mine</p>", encoding="utf-8")
    Path("folder").mkdir()
    for target in ("notes.html", "folder"):
        code, err = cli("--model", "Qwen-7B", "--gpu", "RTX 4090", "--html", target)
        assert code == 2
        assert "--html" in err
    assert Path("notes.html").read_text(encoding="utf-8") == "<p>mine</p>"
    assert not Path("ftadvise-plan.yaml").exists()


def test_a_page_needs_one_gpu(cli: Any) -> None:
    code, err = cli("--model", "Qwen-7B", "--gpu", "any", "--html", "plan.html")
    assert code == 2
    assert "--gpu any" in err
    assert not Path("plan.html").exists()


def test_the_page_says_so_when_nothing_fits(cli: Any) -> None:
    code, _ = cli("--model", "Llama-2-70b-hf", "--gpu", "RTX 4090", "--html", "plan.html")
    assert code == 3
    assert "does not fit" in Page(Path("plan.html").read_text(encoding="utf-8")).words
    assert not Path("ftadvise-plan.yaml").exists()
