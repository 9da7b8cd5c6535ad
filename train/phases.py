"""A stage in phases: which losses and parameters are trained at which learning rate, and when the next phase begins.

The state is a few numbers that follow from the losses alone. It travels in every checkpoint, so a run that is killed
anywhere judges the same losses again and switches at the same step. LatentSync (arXiv 2412.09262) trains so by hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from pipelines import End, Phase, Recipe, RecipeError, Stage
from train.decoded import Judges, load_judges
from train.optim import Weights


class State(NamedTuple):
    """index: of the phase; began: updates before it; the rest is what its end is judged by.

    total, count: losses of the block of steps at hand; best, best_validation: the lowest mean of a block, and the lowest
    validation loss, that were an improvement; flat: whether the last block was none; worse: validations since the best;
    finished: why the last phase is over.
    """

    index: int = 0
    began: int = 0
    total: float = 0.0
    count: int = 0
    best: float | None = None
    flat: bool = False
    best_validation: float | None = None
    worse: int = 0
    finished: str | None = None


def phases_of(stage: Stage, name: str) -> tuple[Phase, ...]:
    """The stage's phases; a stage without any is one phase that the stage's steps end."""
    return stage.phases or (Phase(name=name, losses=stage.losses),)


def check(recipe: Recipe, name: str) -> None:
    """Raises RecipeError for phases that never end or do not fit what stands beside them."""
    stage, place = recipe.stages[name], f"stages.{name}"
    if stage.phases and stage.unfreeze:
        raise RecipeError(f"{place}: `phases` name what trains, so `unfreeze` cannot: give one of them")
    if stage.unfreeze and min(one.at_step for one in stage.unfreeze) > 0:
        raise RecipeError(f"{place}.unfreeze: something must train from the start: give a group with at_step 0")
    if stage.phases and stage.losses != type(stage.losses)():
        raise RecipeError(f"{place}: the losses are those of its phases, take `losses` out")
    for number, phase in enumerate(stage.phases):
        if number < len(stage.phases) - 1 and not _ends(phase.end):
            raise RecipeError(f"{place}.phases.{number}.end: must say `steps`, `plateau` or `validation`")
    for phase in phases_of(stage, name):
        if phase.losses.sync and not phase.losses.sync_scorer:
            raise RecipeError(
                f"{place}: `sync` needs losses.sync_scorer, the path of a scorer (docs/image-to-video.md)"
            )
        if phase.losses.sync and "sound" not in recipe.cache.conditions:
            told = ", ".join((*recipe.cache.conditions, "sound"))
            raise RecipeError(
                f"{place}: `sync` needs the clips' sound in the cache: set cache.conditions to [{told}] and encode again"
            )


def _ends(end: End) -> bool:
    return not (end.steps is None and end.plateau is None and end.validation is None)


# ------------------------------------------------------------------------------------------------------------- judging


def saw_loss(state: State, end: End, loss: float) -> State:
    """After an update. A plateau is judged on means over `plateau` steps, each against the best before it."""
    if end.plateau is None:
        return state
    state = state._replace(total=state.total + loss, count=state.count + 1)
    if state.count < end.plateau:
        return state
    mean, fresh = state.total / state.count, state._replace(total=0.0, count=0)
    if _improves(mean, state.best, end.min_improvement):
        return fresh._replace(best=mean, flat=False)
    return fresh._replace(flat=True)


def saw_validation(state: State, end: End, loss: float) -> State:
    if _improves(loss, state.best_validation, end.min_improvement):
        return state._replace(best_validation=loss, worse=0)
    return state._replace(worse=state.worse + 1)


def over(state: State, end: End, step: int) -> str | None:
    """Why the phase ends after `step` updates, or None."""
    if end.steps is not None and step - state.began >= end.steps:
        return f"{end.steps} steps done"
    if state.flat:
        return f"plateau: no mean loss of {end.plateau} steps {end.min_improvement:.1%} below {state.best:.6g}"
    if end.validation is not None and state.worse >= end.validation:
        return f"validation: {state.worse} times not {end.min_improvement:.1%} below {state.best_validation:.6g}"
    return None


def _improves(loss: float, best: float | None, share: float) -> bool:
    return best is None or loss < best - share * abs(best)


# ------------------------------------------------------------------------------------------------------------ entering


class Phases:
    """The phases of a run: `enter` makes its weights train as the phase at hand says."""

    def __init__(self, recipe: Recipe, name: str, weights: Weights, state: dict[str, Any] | None = None):
        self._recipe, self._name, self._stage, self._weights = recipe, name, recipe.stages[name], weights
        self._judges: dict[int, Judges | None] = {}
        self._joined: tuple[str, ...] | None = None
        self.all = phases_of(self._stage, name)
        self.state = State(**state) if state else State()
        if self.state.index >= len(self.all):
            raise RecipeError(f"stages.{name}: trained up to phase {self.state.index}, which is no longer there")

    @property
    def now(self) -> Phase:
        return self.all[self.state.index]

    def enter(self, step: int) -> None:
        """Losses, learning rate and trainable parameters of the phase at hand, for the update after `step` updates."""
        self._weights.stage = effective(self._stage, self.now)
        self._weights.judges = self._judge()
        self.join(step)

    def join(self, step: int) -> None:
        """Before each update: parameters whose step has come begin to train."""
        patterns = trainable(self._stage, self.now, step)
        if patterns != self._joined:
            freeze(self._weights, patterns)
            self._joined = patterns

    def saw_loss(self, loss: float) -> None:
        self.state = saw_loss(self.state, self.now.end, loss)

    def saw_validation(self, loss: float) -> None:
        self.state = saw_validation(self.state, self.now.end, loss)

    def switch(self, step: int) -> str | None:
        """Goes to the next phase if this one is over after `step` updates. Returns what to tell, or None."""
        reason = over(self.state, self.now.end, step)
        if reason is None or self.state.finished:
            return None
        before = self.now.name
        if self.state.index + 1 == len(self.all):
            self.state = self.state._replace(finished=reason)
            return f"phase {before} is over ({reason}), and the stage with it"
        self.state = State(index=self.state.index + 1, began=step)
        if self.now.optimiser == "fresh":
            self._weights.optimiser.state.clear()
        self.enter(step)
        return f"phase {before} is over ({reason}); {self.now.name} begins, optimiser {self.now.optimiser}"

    def _judge(self) -> Judges | None:
        if self.state.index not in self._judges:
            self._judges[self.state.index] = load_judges(self._recipe, self.now.losses, _device(self._weights))
        return self._judges[self.state.index]


def effective(stage: Stage, phase: Phase) -> Stage:
    """The stage as a phase trains it."""
    return stage.model_copy(update={"losses": phase.losses, "lr": phase.lr or stage.lr})


def trainable(stage: Stage, phase: Phase, step: int) -> tuple[str, ...]:
    """Patterns of the parameters that train in the update after `step` updates; empty is all."""
    if not stage.unfreeze:
        return phase.trainable
    return tuple(pattern for one in stage.unfreeze if one.at_step <= step for pattern in one.trainable)


def freeze(weights: Weights, patterns: tuple[str, ...]) -> None:
    """Only parameters that match a pattern train; a frozen one has no gradient, so nothing changes it.

    Raises RecipeError for a pattern that matches nothing.
    """
    names = list(weights.masters)  # beside adapters the network itself never trains
    unknown = [one for one in patterns if not any(fnmatchcase(name, one) for name in names)]
    if unknown:
        raise RecipeError(f"trainable: no parameter matches {unknown[0]!r}; there are {', '.join(_heads(names))}")
    for name, one in weights.model.named_parameters():
        if name not in weights.masters:
            continue
        one.requires_grad_(not patterns or any(fnmatchcase(name, pattern) for pattern in patterns))


def _heads(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(f"{name.split('.')[0]}.*" for name in names))


def _device(weights: Weights) -> Any:
    return next(weights.model.parameters()).device
