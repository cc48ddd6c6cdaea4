"""Everything that generate() does works on a cache with fewer tokens."""

import copy
import io
import pickle
import threading

import pytest
import torch
from transformers import DynamicCache

import tokenreduce
from tokenreduce.errors import UnsupportedCallError

from . import tinies
from .oracle import WRITE, cache_name, cache_of, write

HANDOVER = {"handover": {"reducer": "random", "keep": 8}}
CUT = {"language": {"reducer": "evit", "layers": [1, 2], "keep": 0.5, "fuse": False}}
MERGE = {"language": {"reducer": "tome", "layers": [0, 1], "r": 6}}
STAGES = {"language": "pyramiddrop"}
RECYCLED = {"language": {"reducer": "sparsevlm", "layers": [0, 2], "keep": [0.5, 0.3]}}
PLANS = {"hand-over": HANDOVER, "cuts": CUT, "merges": MERGE, "stages": STAGES, "recycled": RECYCLED}


@pytest.fixture(params=list(PLANS))
def plan(request):
    return PLANS[request.param]


@pytest.mark.parametrize("family", tinies.ALL)
def test_zero_budget_changes_no_bit(family, tiny):
    plain = write(tiny.model, tiny.batch([[tiny.size], []], tails=[4, 7]))
    for plan in ({"handover": "none"}, {"language": "none"}, {"handover": {"reducer": "random", "keep": 1.0}}):
        with tokenreduce.attach(tiny.model, plan):
            ids, logits, out = write(tiny.model, tiny.batch([[tiny.size], []], tails=[4, 7]))
            assert torch.equal(ids, plain[0]) and torch.equal(logits, plain[1])
            for mine, its in zip(cache_of(out).layers, cache_of(plain[2]).layers, strict=True):
                assert type(mine) is type(its) and torch.equal(mine.keys, its.keys)


@pytest.mark.parametrize("family", tinies.ALL)
def test_beams(tiny, plan):
    """Beam scores are sums of log-probabilities that a greedy recompute of each beam gives too."""
    given = tiny.batch([[tiny.size], [tiny.size] * 2], tails=[4, 6])
    with tokenreduce.attach(tiny.model, plan), torch.no_grad():
        options = {**WRITE, "num_beams": 3, "num_return_sequences": 3, "output_scores": True}
        out = tiny.model.generate(**given, **options)
        columns = given["input_ids"].shape[1]
        again = tiny.model.compute_transition_scores(
            out.sequences, out.scores, out.beam_indices, normalize_logits=False
        )
        torch.testing.assert_close(again.sum(1) / again.shape[1], out.sequences_scores, atol=1e-4, rtol=1e-4)
        alone = tiny.model.generate(**tiny.batch([[tiny.size]], tails=[4], seeds=[0]), **options)
        torch.testing.assert_close(alone.sequences[:, -6:], out.sequences[:3, columns:], atol=0, rtol=0)


def test_beams_repeat_what_the_tower_said():
    """With tower signals and several images per sample, each beam's images go with their own notes."""
    tiny = tinies.llava()
    given = tiny.batch([[tiny.size], [tiny.size] * 2], tails=[4, 6])
    options = {"num_beams": 2, "num_return_sequences": 1}
    with tokenreduce.attach(tiny.model, {"handover": {"reducer": "evit", "keep": 0.3}}):
        together = write(tiny.model, given, **options)[0]
        for b, (images, tail) in enumerate((([tiny.size], 4), ([tiny.size] * 2, 6))):
            alone = write(tiny.model, tiny.batch([images], tails=[tail], seeds=[b]), **options)[0]
            assert torch.equal(alone[0], together[b])


def test_sampling_several_sequences(tiny, plan):
    with tokenreduce.attach(tiny.model, plan):
        drawn = []
        for _ in range(2):
            torch.manual_seed(0)
            drawn.append(write(tiny.model, tiny.inputs(), do_sample=True, num_return_sequences=3, top_k=20))
        assert torch.equal(drawn[0][0], drawn[1][0]) and drawn[0][0].shape == (3, 6)
        greedy = write(tiny.model, tiny.inputs())[1]
        torch.testing.assert_close(drawn[0][1][:, 0], greedy[:, 0].expand(3, -1), atol=1e-5, rtol=1e-5)


def test_prompt_lookup(tiny, plan):
    with tokenreduce.attach(tiny.model, plan):
        want = write(tiny.model, tiny.inputs(), max_new_tokens=12)[0]
        assert torch.equal(write(tiny.model, tiny.inputs(), max_new_tokens=12, prompt_lookup_num_tokens=3)[0], want)


def test_assisted_decoding(family, tiny, plan):
    helper = tinies.ALL[family](seed=1).model
    with tokenreduce.attach(tiny.model, plan):
        want = write(tiny.model, tiny.inputs(), max_new_tokens=12)[0]
        got = write(tiny.model, tiny.inputs(), max_new_tokens=12, assistant_model=helper)[0]
        assert torch.equal(got, want)


TURNS = [(family, images) for family in tinies.ALL for images in (0, 1)]
TURNS = [one for one in TURNS if "qwen" not in one[0] or not one[1]]  # its generate() takes no image on a cache there


@pytest.mark.parametrize(("family", "images"), TURNS)
def test_a_second_turn_on_a_returned_cache(family, tiny, plan, images):
    """As a token at a time on one growing cache: first turn, its answer, more text (and another image) behind it."""
    tiny.double()
    more = tiny.batch([[tiny.size] * images], seeds=[9], head=2, tails=[3])
    for whole in (True, False):  # whether token types are those of everything so far; versions of the library differ
        got, want = second_turn(tiny, more, whole)
        if torch.allclose(got, want, atol=1e-5):
            break
    else:
        pytest.fail("the plain library does not agree with itself")
    with tokenreduce.attach(tiny.model, plan):
        got, want = second_turn(tiny, more, whole)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def second_turn(tiny, more, whole):
    """Logits of the first token of a second answer: by generate() on the returned cache, and a token at a time."""
    model, first, name = tiny.model, tiny.inputs(), cache_name(tiny.model)
    with torch.no_grad():
        out = model.generate(**first, **WRITE)
        ids = torch.cat([out.sequences, more["input_ids"]], dim=1)
        pixels = {key: side for key, side in more.items() if "pixel" in key or key.startswith("image")}
        types = {key: (ids == tinies.IMAGE).int() for key in more if "type" in key}
        positions = {}
        if getattr(model.model, "rope_deltas", None) is not None:
            later = torch.arange(out.sequences.shape[1], ids.shape[1])
            positions["position_ids"] = (later + model.model.rope_deltas).expand(3, 1, -1)
        again = model.generate(input_ids=ids, **pixels, **types, **{name: cache_of(out)}, **WRITE)
        step = model(**first, use_cache=True)
        for place in range(first["input_ids"].shape[1], out.sequences.shape[1]):
            step = model(input_ids=out.sequences[:, place : place + 1], **{name: step[name]}, use_cache=True)
        given = {"input_ids": more["input_ids"], **pixels, **positions, name: step[name]}
        if pixels:
            given |= types if whole else {key: more[key] for key in types}
        want = model(**given, use_cache=True).logits[:, -1]
    return again.logits[0].double(), want


@pytest.mark.parametrize("family", tinies.ALL)
def test_without_a_cache(tiny):
    with tokenreduce.attach(tiny.model, HANDOVER):
        want = write(tiny.model, tiny.inputs())
        got = write(tiny.model, tiny.inputs(), use_cache=False)
        assert torch.equal(got[0], want[0])
        torch.testing.assert_close(got[1], want[1], atol=2e-5, rtol=1e-4)
    with tokenreduce.attach(tiny.model, CUT):  # each step chooses anew by its newest token
        first = write(tiny.model, tiny.inputs(), max_new_tokens=1, use_cache=False)
        torch.testing.assert_close(
            first[1], write(tiny.model, tiny.inputs(), max_new_tokens=1)[1], atol=2e-5, rtol=1e-4
        )


def test_embeddings_without_ids(tiny, plan):
    given = tiny.inputs()
    ids = given.pop("input_ids")
    embeds = tiny.model.get_input_embeddings()(ids).detach()
    with tokenreduce.attach(tiny.model, plan), torch.no_grad():
        want = tiny.model(input_ids=ids, **given).logits
        if "mm_token_type_ids" not in given:  # Qwen takes its positions from the ids
            torch.testing.assert_close(tiny.model(inputs_embeds=embeds, **given).logits, want)
        with pytest.raises(UnsupportedCallError, match=r"inputs_embeds.*pixel_values"):
            tiny.model(inputs_embeds=embeds)


@pytest.mark.parametrize("family", tinies.ALL)
def test_hidden_states_are_at_their_columns(tiny, plan):
    with torch.no_grad():
        plain = tiny.model(**tiny.inputs(), output_hidden_states=True)
        with tokenreduce.attach(tiny.model, plan):
            out = tiny.model(**tiny.inputs(), output_hidden_states=True)
    assert [x.shape for x in out.hidden_states] == [x.shape for x in plain.hidden_states]
    first = 1 if plan is HANDOVER else 2
    torch.testing.assert_close(out.hidden_states[0][:, :3], plain.hidden_states[0][:, :3])
    if plan is CUT:
        for layer in range(first):
            assert torch.equal(out.hidden_states[layer], plain.hidden_states[layer])
    assert not torch.equal(out.hidden_states[-1][:, -1], plain.hidden_states[-1][:, -1])


@pytest.mark.parametrize("family", sorted(tinies.ALL.keys() - {"paligemma"}))  # its prompts see what comes later
def test_logits_to_keep(tiny, plan):
    with tokenreduce.attach(tiny.model, plan), torch.no_grad():
        whole = tiny.model(**tiny.inputs()).logits
        torch.testing.assert_close(tiny.model(**tiny.inputs(), logits_to_keep=1).logits, whole[:, -1:])
        two = tiny.model(**tiny.inputs(), logits_to_keep=2).logits
        shorter = {
            key: side[:, :-1] if side.shape == tiny.inputs()["input_ids"].shape else side
            for key, side in tiny.inputs().items()
        }
        torch.testing.assert_close(two[:, 0], tiny.model(**shorter).logits[:, -1], atol=1e-5, rtol=1e-4)


def test_bfloat16(tiny, plan):
    tiny.model.bfloat16()
    with tokenreduce.attach(tiny.model, plan):
        ids, logits, _ = write(tiny.model, tiny.inputs())
        assert ids.shape == (1, 6) and logits.isfinite().all()


@pytest.mark.parametrize("family", tinies.ALL)
def test_copies(tiny, plan):
    handle = tokenreduce.attach(tiny.model, plan)
    file = io.BytesIO(pickle.dumps(tiny.model))  # before the library puts hooks on it that cannot be pickled
    want = write(tiny.model, tiny.inputs())
    for other in (copy.deepcopy(tiny.model), pickle.loads(file.getvalue())):
        assert torch.equal(write(other, tiny.inputs())[1], want[1])
        tokenreduce.attachment(other).detach()
        plain = write(other, tiny.inputs())
        assert torch.equal(write(tiny.model, tiny.inputs())[1], want[1])
    handle.detach()
    assert torch.equal(write(tiny.model, tiny.inputs())[1], plain[1])


def test_threads(tiny, plan):
    with tokenreduce.attach(tiny.model, plan):
        want = [write(tiny.model, tiny.inputs(seed=seed))[1] for seed in range(4)]
        got = [None] * 4

        def work(seed):
            got[seed] = write(tiny.model, tiny.inputs(seed=seed))[1]

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    if "rope_deltas" not in vars(tiny.model.model):  # Qwen itself keeps the last prompt's positions on the model
        for mine, its in zip(got, want, strict=True):
            assert torch.equal(mine, its)


def test_hooks_act(tiny, plan):
    language = tiny.model.model.language_model
    parts = [tiny.model, tiny.model.model, language, language.layers[3], language.layers[2].self_attn, language.norm]
    with tokenreduce.attach(tiny.model, plan), torch.no_grad():
        want = tiny.model(**tiny.inputs()).logits
        for part in parts:
            seen = []
            handle = part.register_forward_hook(lambda module, args, out, seen=seen: seen.append(1))
            assert torch.equal(tiny.model(**tiny.inputs()).logits, want)
            assert seen
            handle.remove()
        handle = language.layers[3].register_forward_hook(lambda module, args, out: out * 2)
        assert not torch.equal(tiny.model(**tiny.inputs()).logits, want)
        handle.remove()


@pytest.mark.parametrize("family", tinies.ALL)
def test_paused(tiny, plan):
    plain = write(tiny.model, tiny.inputs())
    with tokenreduce.attach(tiny.model, plan) as handle:
        want = write(tiny.model, tiny.inputs())
        with handle.paused():
            assert torch.equal(write(tiny.model, tiny.inputs())[1], plain[1])
        assert torch.equal(write(tiny.model, tiny.inputs())[1], want[1])


@pytest.mark.parametrize("family", tinies.ALL)
def test_save_and_load(tiny, plan, tmp_path):
    with tokenreduce.attach(tiny.model, plan, unit="image") as handle:
        want = write(tiny.model, tiny.inputs())
        handle.save(tmp_path)
        config = handle.config
    with tokenreduce.load(tiny.model, tmp_path) as handle:
        assert handle.config == config
        assert torch.equal(write(tiny.model, tiny.inputs())[1], want[1])
    with tokenreduce.attach(tiny.model, **config):
        assert torch.equal(write(tiny.model, tiny.inputs())[1], want[1])


def test_a_cache_of_one_model_elsewhere_is_refused(tiny):
    with tokenreduce.attach(tiny.model, CUT), torch.no_grad():
        out = tiny.model.generate(**tiny.inputs(), **WRITE)
    name = cache_name(tiny.model)
    with torch.no_grad(), pytest.raises(UnsupportedCallError, match="filled while a reducer was attached"):
        tiny.model(input_ids=out.sequences[:, -1:], **{name: cache_of(out)})


def test_an_own_dynamic_cache(tiny, plan):
    with tokenreduce.attach(tiny.model, plan), torch.no_grad():
        want = tiny.model(**tiny.inputs()).logits
        out = tiny.model(**tiny.inputs(), **{cache_name(tiny.model): DynamicCache()}, use_cache=True)
        torch.testing.assert_close(out.logits, want)


@pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions"])
def test_what_the_configuration_asks_for_is_given_once(tiny, name):
    model = tiny.model
    model.set_attn_implementation("eager")
    for config in (model.config, model.config.text_config):
        setattr(config, name, True)
    with tokenreduce.attach(model, {"handover": "none"}), torch.no_grad():
        got = model(**tiny.inputs())
    with torch.no_grad():
        want = model(**tiny.inputs())
    key = name.removeprefix("output_")
    assert len(got[key]) == len(want[key]) == 4 + (key == "hidden_states")
    assert all(torch.equal(a, b) for a, b in zip(got[key], want[key], strict=True))
