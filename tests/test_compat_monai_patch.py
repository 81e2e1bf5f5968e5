"""`patch` puts the drop-ins wherever MONAI has its own."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Iterator

import monai
import pytest
import torch
from monai import losses as peer
from monai.bundle import ConfigParser
from monai_losses import FEW, FLAT, TARGETS, Case, assert_close, build, outcome, tensors_of, value_and_gradient

from fastmed.compat import monai as ours


def monai_names() -> dict[tuple[str, str], object]:
    modules = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "monai"}
    return {(name, attribute): value for name, module in modules.items() for attribute, value in vars(module).items()}


@pytest.fixture
def _unpatched() -> Iterator[None]:
    yield
    ours.unpatch()


@pytest.mark.usefixtures("_unpatched")
class TestPatch:
    """`patch` and `unpatch`."""

    def test_puts_ours_wherever_monai_has_its_own_and_undoes_it_exactly(self) -> None:
        before = monai_names()
        own = {getattr(peer, name): getattr(ours, name) for name in ours.losses.__all__}
        ours.patch()
        for at, value in monai_names().items():
            was = before[at]
            assert value is (own.get(was, was) if isinstance(was, type) else was), at
        assert monai.losses.dice.FocalLoss is monai.losses.FocalLoss is ours.FocalLoss
        assert monai.losses.Dice is monai.apps.pathology.losses.hovernet_loss.DiceLoss is ours.DiceLoss
        ours.unpatch()
        after = monai_names()
        assert before.keys() == after.keys()
        assert all(after[at] is value for at, value in before.items())
        assert {each.__module__.split(".")[0] for each in own.values() if each not in own} == {"fastmed"}

    def test_is_a_context_that_undoes_what_it_did(self) -> None:
        with ours.patch():
            assert monai.losses.DiceCELoss is ours.DiceCELoss
            with ours.patch():
                assert monai.losses.DiceCELoss is ours.DiceCELoss
            assert monai.losses.DiceCELoss is ours.DiceCELoss
        assert monai.losses.DiceCELoss is peer.DiceCELoss is not ours.DiceCELoss
        ours.patch()
        with pytest.raises(KeyError), ours.patch():
            raise KeyError
        assert monai.losses.DiceCELoss is ours.DiceCELoss

    def test_reaches_a_bundle(self) -> None:
        config = {"loss": {"_target_": "DiceCELoss", "softmax": True, "to_onehot_y": True}}
        with ours.patch():
            loss = ConfigParser(config).get_parsed_content("loss")
        assert type(loss) is ours.DiceCELoss
        assert type(ConfigParser(config).get_parsed_content("loss")) is not ours.DiceCELoss

    def test_reaches_losses_that_monai_builds_itself(self, ran: set[str]) -> None:
        with ours.patch():
            peer.SoftDiceclDiceLoss()(torch.rand(1, 2, 8, 8), torch.ones(1, 2, 8, 8))
        assert len(ran) == 1

    def test_pickles_load_without_it(self) -> None:
        with ours.patch():
            saved = pickle.dumps(monai.losses.DiceLoss(softmax=True))
        assert type(pickle.loads(saved)) is peer.DiceLoss
        loss = pickle.loads(pickle.dumps(ours.DiceLoss(softmax=True)))
        assert type(loss) is ours.DiceLoss

    def test_losses_made_before_are_pickled_and_copied(self) -> None:
        made = [library.DiceCELoss(softmax=True, lambda_ce=0.3) for library in (peer, ours)]
        logits, target = torch.randn(FLAT), TARGETS["one-hot"](FLAT)
        with ours.patch():
            saved = [pickle.dumps(loss) for loss in made]
            found = [*map(pickle.loads, saved), *map(copy.deepcopy, made)]
        for loss in [*found, *map(pickle.loads, saved)]:
            assert_close(loss(logits, target), made[0](logits, target))
        assert [type(pickle.loads(each)) for each in saved] == [type(made[0])] * 2
        assert type(pickle.loads(pickle.dumps(made[0]))) is type(made[0])

    def test_contexts_end_in_any_order(self) -> None:
        first, second = ours.patch(), ours.patch()
        first.close()
        assert monai.losses.DiceLoss is ours.DiceLoss
        second.close()
        assert monai.losses.DiceLoss is not ours.DiceLoss
        third = ours.patch()
        ours.unpatch()
        fourth = ours.patch()
        third.close()
        assert monai.losses.DiceLoss is ours.DiceLoss
        fourth.close()
        assert monai.losses.DiceLoss is not ours.DiceLoss

    def test_numbers_and_fallbacks_are_the_same(self) -> None:
        for case in FEW:
            tensors = tensors_of(case)
            expected = value_and_gradient(build(peer, case), *tensors)
            with ours.patch():
                found = value_and_gradient(build(peer, case), *tensors)
            for actual, other in zip(found, expected, strict=True):
                assert_close(actual, other)
        case = Case("FocalLoss", {"reduction": "none"})
        tensors = tensors_of(case)
        expected_value = build(peer, case)(*tensors)
        with ours.patch():
            assert torch.equal(outcome(build(peer, case), *tensors)[0], expected_value)
