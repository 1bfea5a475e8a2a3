"""The vision transformers: what attention computes, where prompts stand, and their export."""

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from fedadapt.client.stacking import StackedNetwork
from fedadapt.config import RunConfig
from fedadapt.models.build import build_model, make_network
from fedadapt.models.networks.vit import Attention, Block, vit_tiny
from fedadapt.saved_models.card import Card
from fedadapt.saved_models.export import export

SHAPE = (1, 8, 8)


def images(count=3):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(count)).double()


def test_attention_is_that_of_pytorch():
    torch.manual_seed(1)
    ours = Attention(12, 3).double()
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    theirs.in_proj_weight.data.copy_(ours.qkv.weight.data)
    theirs.in_proj_bias.data.copy_(ours.qkv.bias.data)
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(2, 5, 12).double()
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


def test_a_block_is_the_encoder_layer_of_pytorch_that_normalises_first():
    torch.manual_seed(1)
    ours = Block(12, 3).double()
    theirs = nn.TransformerEncoderLayer(
        12, 3, 48, dropout=0.0, activation=F.gelu, batch_first=True, norm_first=True
    ).double()
    names = {
        "self_attn.in_proj_weight": "attention.qkv.weight",
        "self_attn.in_proj_bias": "attention.qkv.bias",
        "self_attn.out_proj.weight": "attention.out.weight",
        "self_attn.out_proj.bias": "attention.out.bias",
        "linear1.weight": "layers.0.weight",
        "linear1.bias": "layers.0.bias",
        "linear2.weight": "layers.2.weight",
        "linear2.bias": "layers.2.bias",
    }
    own = ours.state_dict()
    theirs.load_state_dict({n: own[names.get(n, n)] for n in theirs.state_dict()})
    x = torch.randn(2, 5, 12).double()
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_patch_counts_where_it_stands_and_a_prompt_only_for_what_it_is():
    torch.manual_seed(1)
    model = vit_tiny(SHAPE, 3, prompts=4, width=12, blocks=2, heads=3).double()
    x = images()
    before = model(x)
    with torch.no_grad():
        model.body.prompts.tokens.copy_(model.body.prompts.tokens.flip(0))
    torch.testing.assert_close(model(x), before)
    assert (model(x.roll(2, 3)) - before).abs().min() > 1e-6
    with torch.no_grad():
        model.body.prompts.tokens[0, 0] += 1
    assert (model(x) - before).abs().min() > 1e-6


def test_prompts_stand_behind_the_class_token():
    model = vit_tiny(SHAPE, 3, prompts=4, width=12).double()
    tokens = torch.arange(2 * 3 * 12).reshape(2, 3, 12).double()
    found = model.body.prompts(tokens)
    assert torch.equal(found[:, [0, 5, 6]], tokens)
    assert torch.equal(found[1, 1:5], model.body.prompts.tokens)


def test_a_stack_computes_with_each_clients_own_prompts():
    torch.manual_seed(1)
    model = vit_tiny(SHAPE, 3, prompts=2, width=12, blocks=1, heads=3).double()
    network, x = StackedNetwork(model), torch.stack([images(), images() + 1])
    other = torch.randn(2, 12).double()
    weights = {n: torch.stack([t, t]) for n, t in model.state_dict().items()}
    weights["body.prompts.tokens"][1] = other
    logits = network(weights, x)
    torch.testing.assert_close(logits[0], model(x[0]))
    with torch.no_grad():
        model.body.prompts.tokens.copy_(other)
    torch.testing.assert_close(logits[1], model(x[1]))


def test_weights_of_the_network_without_prompts_fit(tmp_path):
    file = tmp_path / "trained.safetensors"
    trained = make_network("vit-tiny", SHAPE, 3, seed=5)
    save_file(trained.state_dict(), file)
    config = RunConfig(model="vit-tiny-prompts", weights=str(file))
    found, wanted = build_model(config, SHAPE, 3).state_dict(), trained.state_dict()
    assert [n for n in found if n not in wanted] == ["body.prompts.tokens"]
    assert all(torch.equal(found[n], t) for n, t in wanted.items())


def test_it_is_exported_to_onnx(tmp_path):
    torch.manual_seed(1)
    model = vit_tiny(SHAPE, 3, prompts=2, width=12, blocks=1, heads=3)
    card = Card(
        network="vit-tiny-prompts", image_shape=SHAPE, classes=("a", "b", "c"),
        mean=(0.5,), std=(0.5,), reading="grey",
    )  # fmt: skip
    export(model, card, "onnx", tmp_path / "model.onnx")  # which compares the two
    assert (tmp_path / "model.onnx").stat().st_size > 4 * sum(p.numel() for p in model.parameters())
