import base64
import io
import json
import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import gansdk
from gansdk.channels.groups import Plan
from gansdk.contracts import Contract
from gansdk.errors import InvalidOption, OutputError
from gansdk.evaluation.evaluate import Evaluation, Example
from gansdk.files import to_json
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.interfaces import Quality
from gansdk.pipeline.result import CompressionResult
from gansdk.reporting import curves as figures
from gansdk.reporting import ladder_report, pictures, report

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Enlarger(nn.Module):
    """Twice as large, with one convolution that runs two times."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 6, 3, padding=1)
        self.body = nn.Conv2d(6, 6, 3, padding=1)
        self.tail = nn.Conv2d(6, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.head(x)
        return nn.functional.pixel_shuffle(self.tail(self.body(torch.relu(self.body(hidden)))), 2)


class Page(HTMLParser):
    """Tags of a page, checked to be nested, with its text and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.images: list[tuple[str, Image.Image]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.links += [found[name] for name in ("href", "src", "srcset", "action", "data") if name in found]
        if tag == "img":
            content = base64.b64decode(found["src"].removeprefix("data:image/png;base64,"))
            self.images.append((found["alt"], Image.open(io.BytesIO(content))))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def evaluated() -> Evaluation:
    teacher = pixels(40, 60)
    student = np.clip(teacher.astype(int) + 5, 0, 255).astype(np.uint8)
    example = Example(
        name="cat <1>.png",
        input=pixels(20, 30, 1),
        bicubic=pixels(40, 60, 2),
        teacher=teacher,
        student=student,
        target=pixels(40, 60, 3),
    )
    quality = Quality(
        metric="psnr-y",
        reference="ground-truth",
        teacher=31.5,
        student=30.25,
        images=5,
        protocol="Y channel, border of 2 pixels removed",
        extra={"bicubic": 28.43},
    )
    return Evaluation(
        qualities=(quality,), per_image=({"name": "cat <1>.png", "score": math.inf},), examples=(example,)
    )


@pytest.fixture(scope="module")
def bare() -> CompressionResult:
    """A result without training and evaluation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Enlarger().eval()
    contract = Contract(channels_in=3, channels_out=3, size=(16, 20), scale=2)
    generator = gansdk.wrap(net, contract=contract)
    full = ElasticStudent.of(generator)
    plan = Plan({group.name: tuple(range(0, group.size, 2)) for group in full.space.prunable})
    return CompressionResult(
        student=full.carve(plan).module.eval(),
        teacher=net,
        generator=generator,
        space=full.space,
        plan=plan,
        budget="macs/2",
        before=full.cost(full.space.full_plan()),
        after=full.cost(plan),
    )


@pytest.fixture
def result(bare) -> CompressionResult:
    history = [{"step": float(step), "loss": 1 / step, "gka": 2 / step} for step in (10, 20, 30)]
    return replace(
        bare,
        evaluation=evaluated(),
        history=history,
        warnings=["The student was <not> scored on 2 images."],
        checks={"plan -> carved": 1.5e-7},
        settings={"pruner": {"part": "one-step", "ratio": 0.5}, "seed": 3, "folder": Path("images")},
    )


def test_a_result_is_shown_in_one_line(result, bare):
    for shown in (repr(result), repr(bare)):
        assert "\n" not in shown
        assert len(shown) < 500
        assert f"{result.after.macs:,} MACs" in shown
    assert "psnr" in repr(result)


def test_the_report_is_one_file_without_links(result, tmp_path):
    page = Page(result.report(tmp_path / "report.html").read_text(encoding="utf-8"))
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_report_shows_every_figure_with_its_convention(result, tmp_path):
    text = Page(result.report(tmp_path / "report.html").read_text(encoding="utf-8")).text
    for wanted in (
        f"{result.before.macs:,}",
        f"{result.after.macs:,}",
        f"{result.before.macs / result.after.macs:.2f}x",
        "MACs at 16x20, true counting",
        "30.2500",
        "bicubic 28.4300",
        "border of 2 pixels removed",
        "feeds" if any("feeds" in group.frozen for group in result.space.groups) else "frozen because",
        "plan -> carved 1.5e-07",
        "The student was <not> scored on 2 images.",
        "part: one-step, ratio: 0.5",
    ):
        assert wanted in text


def test_text_from_outside_cannot_become_markup(result):
    assert "<not>" not in report.render_html(result)
    assert "cat <1>" not in report.render_html(result)


def test_images_are_shown_side_by_side_with_one_difference_scale(result):
    page = Page(report.render_html(result))
    sizes = {alt.rpartition(": ")[2]: image.size for alt, image in page.images if alt.startswith("cat")}
    assert list(sizes) == ["input", "bicubic", "teacher", "student", "ground truth", "difference"]
    assert sizes.pop("input") == (30, 20)
    assert set(sizes.values()) == {(60, 40)}
    assert "from 0 (black) to 32 of 255 levels" in page.text


def test_large_images_are_cropped_to_the_same_centre(result):
    side = 2 * pictures.SHOWN_PX
    image = np.zeros((side, side, 3), np.uint8)
    image[side // 2 - 4 : side // 2 + 4, side // 2 - 4 : side // 2 + 4] = 255
    example = Example(name="dot", student=image, teacher=image, input=image[::2, ::2])
    shown = dict(pictures._tiles(example, 32.0))
    assert shown["student"].shape == (pictures.SHOWN_PX, pictures.SHOWN_PX, 3)
    assert shown["input"].shape == (pictures.SHOWN_PX // 2, pictures.SHOWN_PX // 2, 3)
    for name in ("student", "input"):
        rows, columns = np.nonzero(shown[name][..., 0])
        assert rows.mean() == columns.mean() == pytest.approx((shown[name].shape[0] - 1) / 2)


def test_the_brightest_difference_is_the_scale():
    coloured = pictures._coloured(np.array([[[0.0], [32.0]]]), 32.0)
    assert coloured[0, 0].sum() < 10
    assert coloured[0, 1].sum() > 600


def test_images_of_one_channel_are_shown(bare):
    grey = pixels(12, 12)[..., :1]
    evaluation = Evaluation(qualities=(), per_image=(), examples=(Example(name="grey", student=grey, teacher=grey),))
    page = Page(report.render_html(replace(bare, evaluation=evaluation)))
    assert [image.mode for _, image in page.images] == ["L", "L", "RGB"]


def test_losses_of_all_sizes_and_signs_are_told_apart():
    names = [f"term{i}" for i in range(12)]
    rows = [{"step": step, **{name: (-1) ** i * 10.0 ** (i - 6) for i, name in enumerate(names)}} for step in (1, 2)]
    [figure] = figures.losses(rows)
    [axes] = figure.axes
    assert axes.get_yscale() == "symlog"
    assert axes.get_title() == "Stage 1"
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 12
    [figure] = figures.losses([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}])
    assert figure.axes[0].get_yscale() == "log"


def test_every_stage_has_its_curves(result):
    again = [*result.history, *({**row, "loss": -1.0} for row in result.history)]
    page = Page(report.render_html(replace(result, history=again)))
    assert sum(alt.startswith("Losses") for alt, _ in page.images) == 2


def test_named_stages_are_kept_apart(result):
    rows = [{**row, "stage": stage} for stage in (0.0, 1.0) for row in result.history]
    assert list(figures._stages(rows)) == ["0", "1"]


def test_a_result_without_training_and_evaluation_has_a_report(bare):
    page = Page(report.render_html(bare))
    assert "Nothing was evaluated." in page.text
    assert page.images == []


def test_the_layers_add_up_to_the_cost_and_agree_with_torch(bare):
    rows = {row["module"]: row for row in report.report_data(bare)["modules"]}
    assert sum(row["macs_before"] for row in rows.values()) == bare.before.macs
    assert sum(row["macs_after"] for row in rows.values()) == bare.after.macs
    assert rows["body"]["calls"] == 2
    assert rows["head"]["channels_before"] == "3 to 6"
    assert rows["head"]["channels_after"] == "3 to 3"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        bare.student(torch.zeros(bare.generator.contract.example_shape))
    counted = counter.get_flop_counts()
    for name in ("head", "body", "tail"):
        assert 2 * rows[name]["macs_after"] == sum(counted[f"Enlarger.{name}"].values())


def test_the_json_report_is_plain_and_holds_the_summary(result, tmp_path):
    text = result.report(tmp_path / "report.json").read_text(encoding="utf-8")
    data = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert data["ratios"]["macs"] == pytest.approx(result.before.macs / result.after.macs)
    assert data["quality"][0]["student"] == 30.25
    assert data["per_image"][0]["score"] is None
    assert data["settings"]["folder"] == "images"
    assert data["groups"][0].keys() == {"group", "before", "after", "frozen", "tensors"}
    assert {key: data[key] for key in result.summary()} == result.summary()


def test_a_summary_is_json_already(result):
    assert json.loads(json.dumps(result.summary(), allow_nan=False)) == result.summary()


def test_what_json_lacks_becomes_null_or_text():
    given = {"a": (1, math.nan), 2: {"path": Path("x")}, "flag": True, "none": None}
    assert to_json(given) == {"a": [1, None], "2": {"path": "x"}, "flag": True, "none": None}


def test_the_same_result_gives_the_same_bytes(result):
    assert report.render_html(result) == report.render_html(result)


def test_another_extension_is_refused_by_naming_the_two(result, tmp_path):
    with pytest.raises(InvalidOption, match=r"\.html or \.json"):
        result.report(tmp_path / "report.pdf")


def test_a_folder_that_does_not_exist_is_named(result, tmp_path):
    with pytest.raises(OutputError, match="Choose a folder that exists"):
        result.report(tmp_path / "missing" / "report.html")


def test_wide_tables_scroll_and_both_colour_schemes_are_served(result):
    html = report.render_html(result)
    assert html.count("<table>") == html.count('<div class="wide">')
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html


# Searches and ladders.

GENERATIONS = [
    {"generation": 1, "generations": 3, "left": 0, "scored": 4, "best": 0.5, "macs": 200_000},
    {
        "generation": 2,
        "generations": 3,
        "left": 2,
        "config": "2_4",
        "positions": ["c0", "c1"],
        "measure": "the error on 5 images",
        "scored": 6,
        "best": 0.25,
        "macs": 180_000,
        "front": [[100_000, math.inf], [150_000, 0.4], [180_000, 0.25]],
    },
]


def test_a_search_is_shown_with_its_front(result):
    found = replace(result, search=GENERATIONS)
    page = Page(report.render_html(found))
    shown = [image for title, image in page.images if title.startswith("Score against MACs")]
    assert len(shown) == 1
    assert "6 subnets were scored in 2 of 3 generation(s), the last of which was not finished" in page.text
    assert "A score is the error on 5 images." in page.text
    assert "The best one is 2_4" in page.text
    assert "One number each for: c0, c1." in page.text
    assert report.report_data(found)["search"][1]["front"][0] == [100_000, None]
    assert "subnets were scored" not in Page(report.render_html(result)).text


@pytest.fixture
def ladder(result):
    """Two students, the second with a value that could not be measured."""
    kid = replace(result.quality[0], metric="kid", teacher=None, student=0.125, extra={})
    smaller = replace(
        result,
        budget="macs/4, params/4",
        after=replace(result.after, macs=90_000),
        warnings=["Something else."],
        evaluation=replace(result.evaluation, qualities=(replace(result.quality[0], student=29.0),)),
    )
    first = replace(result, evaluation=replace(result.evaluation, qualities=(*result.quality, kid)))
    return gansdk.Ladder(results=[first, smaller])


def test_a_ladder_has_one_table_a_curve_per_metric_and_all_students_side_by_side(ladder, tmp_path):
    page = Page(ladder.report(tmp_path / "ladder.html").read_text())
    assert [title for title, _ in page.images[:2]] == [
        "psnr-y to ground-truth against MACs",
        "kid to ground-truth against MACs",
    ]
    titles = [title.removeprefix("cat <1>.png: ") for title, _ in page.images[2:]]
    assert titles == ["input", "ground truth", "teacher", "2x", "4x_params-over-4"]
    for shown in (
        "teacher 467 K 1.00x",
        "31.5000 - 2x 181 K 2.57x",
        "30.2500 0.1250 4x_params-over-4 90 K 5.18x",
        "29.0000 -",
    ):
        assert shown in page.text
    assert "not> scored on 2 images. Something else." in page.text


def test_baselines_are_lines_of_a_ladders_curves_where_all_students_have_the_same(ladder):
    def scored(result, **extra):
        rows = tuple(replace(row, extra={**row.extra, **extra}) for row in result.quality[:1])
        return replace(result, evaluation=replace(result.evaluation, qualities=rows))

    first, second = ladder.results
    made = gansdk.Ladder(results=[scored(first, wider=30.0), scored(second, wider=31.0)])
    [(_, figure)] = ladder_report._curves(made)
    assert {line.get_label() for line in figure.axes[0].lines} >= {"teacher", "bicubic"}
    assert not [line for line in figure.axes[0].lines if "wider" in str(line.get_label())]


def test_students_are_joined_in_the_order_of_their_macs_whatever_their_budgets():
    points = [{"name": "2x", "macs": 3e6, "value": 30.0}, {"name": "4x", "macs": 4e6, "value": 29.0}]
    [axes] = figures.quality_curve("psnr", points, {}).axes
    assert axes.lines[0].get_xydata().tolist() == [[3.0, 30.0], [4.0, 29.0]]
    [axes] = figures.quality_curve("psnr", points[::-1], {}).axes
    assert axes.lines[0].get_xydata().tolist() == [[3.0, 30.0], [4.0, 29.0]]
    assert {text.get_text(): text.xy for text in axes.texts} == {"2x": (3.0, 30.0), "4x": (4.0, 29.0)}


def links_of(page):
    """Where a page leads to, with what is escaped in addresses read back."""
    return [unquote(link) for link in Page(page.read_text()).links if link.endswith("report.html")]


def test_a_saved_ladder_leads_to_its_students_from_wherever_its_report_is(bare, tmp_path):
    made = gansdk.Ladder(results=[bare, replace(bare, budget="macs<=30%")])
    made.save(tmp_path / "a")
    names = ["2x", "macs-at-most-30%"]
    assert links_of(tmp_path / "a" / "ladder.html") == [f"{name}/student/report.html" for name in names]
    (tmp_path / "b").mkdir()
    assert links_of(made.report(tmp_path / "b" / "x.html")) == []
    known = replace(made, out_dir=tmp_path / "a")
    known.save(tmp_path / "c")
    reports = known.report(tmp_path / "b" / "x.html"), known.report(tmp_path / "x.html"), tmp_path / "c" / "ladder.html"
    for page in reports:
        links = links_of(page)
        assert len(links) == 2
        assert all((page.parent / link).is_file() for link in links)


def test_reports_of_several_routes_are_titled_by_their_networks(bare, tmp_path):
    students = nn.ModuleDict({"A2B": bare.student, "B2A": bare.student})
    joint = replace(bare, student=students, routes={"A2B": bare, "B2A": bare})
    name = f"{type(bare.student).__name__} (A2B and B2A)"
    assert f"{name}, compressed" in Page(report.render_html(joint)).text
    made = gansdk.Ladder(results=[joint])
    assert f"{name}, 1 students" in Page(made.report(tmp_path / "x.html").read_text()).text


def test_a_ladder_as_json_is_its_curve_and_every_students_summary(ladder, tmp_path):
    told = json.loads(ladder.report(tmp_path / "ladder.json").read_text())
    assert told == to_json(ladder.summary())
    teacher, first, second = told["curve"]
    assert teacher["quality"] == [{"metric": "psnr-y", "reference": "ground-truth", "value": 31.5}]
    assert [item["value"] for item in first["quality"]] == [30.25, 0.125]
    assert (second["name"], second["macs"]) == ("4x_params-over-4", 90_000)
    assert told["students"]["2x"]["budget"] == "macs/2"
    with pytest.raises(InvalidOption, match=r"\.pdf"):
        ladder.report(tmp_path / "ladder.pdf")


def test_a_ladder_is_saved_as_folders_by_budget(bare, tmp_path):
    made = gansdk.Ladder(results=[bare, replace(bare, budget="macs/4")])
    made.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2x", "4x", "ladder.html", "ladder.json"]
    assert (tmp_path / "4x" / "student" / "config.json").is_file()
    assert repr(made) == "<Ladder of 466,560 MACs: 2x, 4x>"


HOSTILE = (
    "</code><img src=x onerror=alert(1)>",
    "a](http://evil.example) [b](javascript:alert(1)) ![c](http://evil.example/x.png)",
    "<http://evil.example>",
    "&lt;b&gt;",
    "`code` **bold** \\` | cell |",
    "# heading",
    "line\n\n# heading\n---\n```\n<script>alert(1)</script>",
    "\x1b[31m\u202egnp.exe",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_in_the_card_are_text_and_nothing_else(result, name):
    from markdown_it import MarkdownIt

    from gansdk.text import readable

    def card(text: str) -> str:
        quality = (replace(result.quality[0], metric=text, reference=text, protocol=text),)
        evaluation = replace(result.evaluation, qualities=quality)
        named = replace(
            result, generator=replace(result.generator, source=text), evaluation=evaluation, budget=text, unused=text
        )
        return report.model_card(replace(named, used=0.9), loads_alone=True)

    def tags(text: str) -> list[str]:
        return [token.tag + token.type for token in tokens(text)]

    def tokens(text: str):
        for token in MarkdownIt("commonmark").enable("table").parse(card(text)):
            yield token
            yield from token.children or ()

    assert tags(name) == tags("plain")
    shown = "".join(token.content for token in tokens(name) if token.type == "text")
    assert shown.count(readable(name).strip()) >= 4
    for bad in ("<img", "<script", "](http", "](java", "\x1b", "\u202e"):
        assert bad not in card(name)


def test_ordinary_names_stay_as_they_are_in_the_card(bare):
    source = "/data/R&D/my_net v2 [0, 1] (macs<=60% -> x>=2).pth"
    card = report.model_card(replace(bare, generator=replace(bare.generator, source=source)), loads_alone=True)
    assert f"from {source}." in card
