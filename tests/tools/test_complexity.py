"""tools.complexity: against shapes from hooks in a real forward pass, closed forms, and the paper's figure."""

import json
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from configs.schema import Config
from tests.models.drawing import coarse_inputs, coarse_net, draw_clip, fine_net
from tools.complexity import __main__ as complexity
from tools.complexity.count import ALIGNMENT, count, count_coarse, part_of, published_factor, sides

TINY = ["--model.variant", "tiny", "--data.fine_frames", "9", "--data.clip_span", "60"]


def seen_by_hooks(net, inputs):
    """Multiply-adds of the layers of each module: outputs times weights per output, from a real forward pass."""
    found = Counter()

    def note(name):
        def hook(module, _, out):
            taken = module.weight[0].numel()
            found[part_of(name)] += out.numel() * taken

        return hook

    for name, module in net.named_modules():
        if isinstance(module, (nn.Conv3d, nn.Linear)):
            module.register_forward_hook(note(name))
    with torch.no_grad():
        net.eval()(*inputs)
    return +found


@pytest.mark.parametrize("frames", [4, 7])
def test_the_fine_streams_layers(frames):
    inputs = (draw_clip(1, frames),)
    counted = count(fine_net(), inputs, 64)
    assert +Counter(counted.multiply_adds) == seen_by_hooks(fine_net(), inputs)
    assert counted.as_published == counted.total


@pytest.mark.parametrize("pool", ["grid", "none", "stride"])
@pytest.mark.parametrize("fusion", ["multistage", "per_stage", "lateral", "none"])
def test_the_coarse_streams_layers(pool, fusion):
    inputs = coarse_inputs(frames=9, valid=[13])
    counted = count(coarse_net(pool=pool, fusion=fusion), inputs, 64)
    layers = Counter(counted.multiply_adds)
    del layers[ALIGNMENT]
    assert +layers == seen_by_hooks(coarse_net(pool=pool, fusion=fusion), inputs)
    net = coarse_net(pool=pool, fusion=fusion)
    assert sum(counted.parameters.values()) == sum(p.numel() for p in net.parameters())
    assert ("Grid Pool" in counted.parameters) == (pool == "grid")
    assert ("fusion of logits" in counted.parameters) == (fusion in ("multistage", "per_stage"))


def test_sums_over_time():
    """A product (J,T') x (T',49 C) for each level, and one (J,T') x (T',49) for its divisor."""
    J, fine_frames = 4, 13  # ceil(9/4) regions have 4 boundaries
    counted = count(coarse_net(), coarse_inputs(frames=9, valid=[fine_frames]), 64)
    channels = (12, 16, 32, 48, 96)
    assert counted.multiply_adds[ALIGNMENT] == J * fine_frames * 49 * (sum(channels) + len(channels))


def test_where_the_published_code_fuses():
    assert sides(224) == [56, 28, 14, 7]
    assert sides(312) == [78, 39, 20, 10]
    assert published_factor("fusion.levels.layer1.shift.0", 224) == 64
    assert published_factor("fusion.levels.layer4.attention.3", 224) == 1
    assert published_factor("fusion.stages.1.scale", 224) == 16
    assert published_factor("fusion.stages.1.scale", 312) == 1  # computed at the stage's size here too
    assert published_factor("backbone.stages.1.0.expand.conv", 224) == 1
    assert published_factor("logit_fusion.shift.0", 224) == 1


def test_published_number_of_the_coarse_stream():
    """12.7 G for a clip of 64 frames with 128 fine frames."""
    assert count_coarse(Config(), 64, 128).as_published == pytest.approx(12.7e9, rel=0.004)


def test_ours_beside_the_papers(tmp_path, capsys):
    assert complexity.main([*TINY, "--json", str(tmp_path / "counts.json")]) == 0
    out, contents = capsys.readouterr().out, json.loads((tmp_path / "counts.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["counts.json"]
    table, figure = out.split("\n\n")

    assert contents["figure"][0]["ours"] == pytest.approx(2 * 19.0, rel=0.001)  # 19.0 G for 64 frames
    assert [(row["name"], row["paper"]) for row in contents["figure"]] == [
        ("X3D", 38), ("SlowFast_det", 54), ("Coarse-Fine", 61), ("Fine-Fine", 95)
    ]  # fmt: skip
    for row, line in zip(contents["figure"], figure.splitlines()[2:], strict=False):
        assert row["as_published"] == pytest.approx(row["paper"], rel=0.02)  # accuracy of reading the figure
        assert row["ours"] <= row["as_published"]
        assert line.startswith(row["name"])
        assert line.endswith("*") == (row["ours"] < 0.95 * row["paper"])

    assert table.startswith("X3D-tiny, 64 px, 157 classes")
    training, equal = contents["settings"]
    assert (training["coarse_frames"], training["fine_frames"]) == (6, 9)
    assert (equal["coarse_frames"], equal["fine_frames"]) == (9, 9)
    assert training["counts"]["Fine"] == equal["counts"]["Fine"]
    (both,) = (line.split()[-2:] for line in table.splitlines() if re.match(r"both streams +\d", line))
    sums = [sum(sum(s["counts"][x]["multiply_adds"].values()) for x in ("Fine", "Coarse")) for s in (training, equal)]
    assert both == [f"{number / 1e9:.3f}" for number in sums]


def test_without_fusion_the_coarse_stream_stands_alone():
    config = Config()
    config.model = replace(config.model, variant="tiny", fusion="none")
    lines = complexity.table(config, complexity.count_settings(config))
    assert "Coarse stream" in lines
    assert "both" not in lines
    assert "as published" not in lines


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--json", "{folder}"], ["is a folder; give a file name"]),
            (["--json", f"{__file__}/counts.json"], ["not writable (not a folder)"]),
            (["--json"], ["--json: expected one argument"]),
            (["--model.pol", "none"], ["--model.pool"]),
            (["--model.pool", "sum"], ["'grid', 'avg', 'max', 'stride' or 'none'"]),
            (["--config", "{folder}/absent.yaml"], ["absent.yaml"]),
            (["--data.fine_frames", "1000000000000"], ["--data.fine_frames", "too large"]),
        ],
        ids=str,
    )
    def test_one_line(self, arguments, words, tmp_path, capsys):
        try:
            status = complexity.main([a.replace("{folder}", str(tmp_path)) for a in arguments])
        except SystemExit as ended:
            status = ended.code
        out, err = capsys.readouterr()
        assert status in (1, 2)
        assert out == ""
        assert err.count("\n") == 1
        assert all(word in err for word in words), err
        assert list(tmp_path.iterdir()) == []
