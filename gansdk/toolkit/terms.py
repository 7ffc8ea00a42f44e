"""The sum of a stage's terms, for regimes to add to the student's loss."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from gansdk.contracts import Metrics, Observation, Route
from gansdk.errors import IncompatibleParts
from gansdk.interfaces import Stage, State, Student, Teacher, Term
from gansdk.registry.isolation import returned
from gansdk.registry.suggestions import anchors, distillers_such_as


def common_taps(student: Student, teacher: Teacher) -> tuple[str, ...]:
    """Taps that both sides offer, in the student's order."""
    return tuple(tap for tap in student.taps if tap in teacher.taps)


def check_anchored(terms: Sequence[Term], routes: Collection[Route], *, missing: str, remedy: str) -> None:
    """Refuse terms that leave colours and brightness open, for regimes with no loss of their own that fixes them.

    `missing` says why the regime itself does not, and `remedy` how it would. A term of some routes fixes those alone.

    Raises:
        IncompatibleParts: there is a route on which no term compares low frequencies.
    """
    anchoring = [term for term in terms if term.anchors_low_frequencies]
    if open_routes := [route for route in routes if not any(term.holds_for(route) for term in anchoring)]:
        where = f" on the route {open_routes[0]!r}" if len(routes) > 1 else ""
        raise IncompatibleParts(
            f"Nothing determines the colors and brightness of the student's images{where}: {missing}, and no "
            "distiller compares more than details or features. Add a distiller of whole "
            f"images{distillers_such_as(anchors)}, or {remedy}."
        )


def check_routes(terms: Sequence[Term], trained: Collection[Route]) -> None:
    """Raise IncompatibleParts if a term is for a route that is not among those that are trained."""
    for term in terms:
        if strange := [route for route in term.routes or () if route not in trained]:
            raise IncompatibleParts(
                f"The distiller {term.name!r} has routes={list(term.routes or ())}, but {strange[0]!r} is not trained "
                f"in this run. Choose from {' and '.join(map(repr, trained))}, or omit routes."
            )


def terms_by_route(stage: Stage, teacher: Teacher) -> dict[Route, TermSum]:
    """The terms of a stage against one teacher, for every route of its student; several routes have terms of their own.

    Raises:
        IncompatibleParts: a term wants a route that there is not, or taps that are not available.
    """
    students = stage.student.parts()
    check_routes(stage.terms, students)
    if len(students) == 1:
        return {route: TermSum(stage, teacher) for route in students}
    return {
        route: TermSum(replace(stage, student=student, terms=_own_terms(stage.terms, route)), teacher.parts()[route])
        for route, student in students.items()
    }


def _own_terms(terms: Sequence[Term], route: Route) -> tuple[Term, ...]:
    """Copies, because a term's connectors are those of one student."""
    return tuple(copy.deepcopy(term) for term in terms if term.holds_for(route))


class TermSum:
    """Terms of one stage against one teacher or several. Each is bound, and shown only the taps it asked for.

    Terms on images are summed over the teachers; those on feature maps are compared with the first alone, whose layers
    are the student's. Metrics have the terms' names; a second term of the same name is told apart by a number
    ("pixel-2").

    Raises:
        IncompatibleParts: a term wants taps that are not available.
    """

    def __init__(self, stage: Stage, *teachers: Teacher) -> None:
        available = common_taps(stage.student, teachers[0])
        self._terms = _numbered(stage.terms)
        self._wanted = {name: term.taps(available) for name, term in self._terms.items()}
        for name, term in self._terms.items():
            term.bind(replace(stage, teachers=teachers[:1] if self._wanted[name] else teachers))
        wanted = {tap for taps in self._wanted.values() for tap in taps}
        self.taps = tuple(tap for tap in available if tap in wanted)
        """What to observe of the student and the first teacher: the union over terms."""
        self.needs_image = any(term.needs_image for term in self._terms.values())
        """Whether to observe the teachers' images."""

    def __len__(self) -> int:
        return len(self._terms)

    def __call__(self, student: Observation, *teachers: Observation) -> tuple[Tensor, Metrics]:
        """The weighted sum, a 0-d tensor, and every term without its weight, detached; needs at least one term."""
        values = {name: self._value(name, student, teachers) for name in self._terms}
        total = torch.stack([self._terms[name].weight * value for name, value in values.items()]).sum()
        return total, {name: value.detach() for name, value in values.items()}

    def _value(self, name: str, student: Observation, teachers: Sequence[Observation]) -> Tensor:
        term, taps = self._terms[name], self._wanted[name]
        encoded = term.encode(_only(student, taps))
        first, *others = (
            returned(term(encoded, term.encode(_only(teacher, taps))), Tensor, term, "its call")
            for teacher in (teachers[:1] if taps else teachers)
        )
        return sum(others, first)

    def of_images(self, student: Observation, teacher: Observation) -> Tensor:
        """The weighted sum of those terms that compare images alone, with gradient to both sides; a 0-d tensor.

        A term's own gradient is taken to its first side. Distances are symmetric, so the other side's is that of the
        term with its sides exchanged.
        """
        total = torch.zeros((), device=None if student.image is None else student.image.device)
        for name, term in self._terms.items():
            if term.needs_image and not self._wanted[name]:
                encoded, other = (term.encode(_only(side, ())) for side in (student, teacher))
                back = term(other, encoded.detached())
                total = total + term.weight * (term(encoded, other.detached()) + back - back.detach())
        return total

    def parameters(self) -> Iterator[nn.Parameter]:
        """Connectors of all terms, to be trained with the student."""
        for term in self._terms.values():
            yield from term.parameters()

    def state_dict(self) -> State:
        return {name: term.state_dict() for name, term in self._terms.items()}

    def load_state_dict(self, state: State) -> None:
        for name, term in self._terms.items():
            term.load_state_dict(state[name])


def _only(observation: Observation, taps: Sequence[str]) -> Observation:
    return Observation(observation.image, {tap: observation.features[tap] for tap in taps})


def _numbered(terms: Sequence[Term]) -> Mapping[str, Term]:
    named: dict[str, Term] = {}
    for term in terms:
        same = sum(other.name == term.name for other in named.values())
        named[f"{term.name}-{same + 1}" if same else term.name] = term
    return named
