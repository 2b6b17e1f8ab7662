"""What a plan is bound to at this connector. The control plane can start a cycle, but not redirect one.

A plan is a policy over groups: site, source and target alias are the plan's, machines are each group's, and a machine
is in one group of a plan only. Both are bound at a first `begin`: the plan's, then each group's. The source is among
them as a machine is known by its identity there: one of the same name in another source would have the same shadows.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dmcore.api.labels import Alias, Label, Site
from dmcore.connector.trust_errors import BindingRefused, BindingUnfit, PlanUnbound
from dmcore.host.errors import FileBroken
from dmcore.host.files import create_file, make_dir, read_state, replace_file
from dmcore.model.ids import GroupId, PlanId

MAX_BOUND_MACHINES = 4096
"""Of all groups of a plan: with the longest names its file is still smaller than any state file may be."""

Machines = Annotated[frozenset[Label], Field(min_length=1)]
Where = tuple[str, str, str]
"""Site, source and target alias: what an appliance says, or its certificate."""


class Binding(BaseModel):
    """One plan's: where its appliance is, whose disks each of its groups may send, where they go."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: PlanId
    site: Site
    source: Alias
    target: Alias
    groups: dict[GroupId, Machines]

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if sum(map(len, self.groups.values())) > MAX_BOUND_MACHINES:
            raise ValueError(f"more than {MAX_BOUND_MACHINES} machines in one plan")
        return self


class Bindings:
    """One durable file a plan under `state_dir`. Thread-safe; the connector's process is its only writer."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = make_dir(state_dir / "plans")
        self._lock = threading.Lock()

    def require(self, plan: PlanId, group: GroupId, at: Where, machines: Sequence[str]) -> Binding:
        """Called at every `begin`: the first of a plan or of a group binds it, later ones must fit.

        Raises:
            BindingRefused: another site, source or target, or a machine that the group is not bound to.
            BindingUnfit: what is asked for is no site, label or alias at all, or too much.
        """
        asked = _binding(plan, at, {group: frozenset(machines)})
        with self._lock:
            try:
                bound = self.load(plan)
            except PlanUnbound:
                create_file(self._path(plan), _packed(asked))
                return asked
            _require_within(asked, bound, group)
            if group not in bound.groups:
                bound = _binding(plan, at, {**bound.groups, **asked.groups})
                replace_file(self._path(plan), _packed(bound))
            return bound

    def require_site(self, plan: PlanId, site: str) -> None:
        """Whether an appliance of this site may ask about the plan's groups.

        Raises:
            BindingRefused: the plan is bound to another site. PlanUnbound, FileBroken: as `load`.
        """
        _require_same(plan, "site", self.load(plan).site, site)

    def load(self, plan: PlanId) -> Binding:
        """What a plan is bound to.

        Raises:
            PlanUnbound: it never began a cycle here.
            FileBroken: its file cannot be read.
        """
        path = self._path(plan)
        try:
            return Binding.model_validate_json(read_state(path))
        except FileNotFoundError as missing:
            raise PlanUnbound(plan=str(plan)) from missing
        except ValueError as problem:
            raise FileBroken(path=str(path), problem="not a plan's binding; bind the plan anew") from problem

    def rebind(
        self, plan: PlanId, group: GroupId, site: str, machines: Sequence[str], source: str | None = None
    ) -> Binding:
        """An operator's decision, and nobody else's: another site or source for a plan, other machines for a group.

        Without a source that stays. The target stays in any case: the group's shadows lie there.

        Raises:
            PlanUnbound: it never began a cycle here.
            BindingRefused: a machine is in another group of the plan; take it out there first.
            BindingUnfit: as `require`.
        """
        with self._lock:
            bound = self.load(plan)
            at = (site, source or bound.source, bound.target)
            binding = _binding(plan, at, {**bound.groups, group: frozenset(machines)})
            _require_not_elsewhere(binding, bound, group)
            replace_file(self._path(plan), _packed(binding))
        return binding

    def _path(self, plan: PlanId) -> Path:
        return self._folder / f"{plan}.json"


def _binding(plan: PlanId, at: Where, groups: dict[GroupId, frozenset[str]]) -> Binding:
    site, source, target = at
    try:
        return Binding(plan=plan, site=site, source=source, target=target, groups=groups)
    except ValidationError as refused:
        first = refused.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "binding"
        raise BindingUnfit(plan=str(plan), problem=f"{where}: {first['msg']}") from refused


def _packed(binding: Binding) -> bytes:
    return binding.model_dump_json().encode()


def _require_within(asked: Binding, bound: Binding, group: GroupId) -> None:
    _require_same(asked.plan, "site", bound.site, asked.site)
    _require_same(asked.plan, "source", bound.source, asked.source)
    _require_same(asked.plan, "target", bound.target, asked.target)
    _require_not_elsewhere(asked, bound, group)
    own = bound.groups.get(group, asked.groups[group])
    if unbound := asked.groups[group] - own:
        raise BindingRefused(plan=str(asked.plan), what="machines", bound=_listed(own), asked=_listed(unbound))


def _require_not_elsewhere(asked: Binding, bound: Binding, group: GroupId) -> None:
    for other, machines in bound.groups.items():
        taken = asked.groups[group] & machines
        if other != group and taken:
            where = (f"{_listed(taken)} in group {each}" for each in (other, group))
            raise BindingRefused(plan=str(asked.plan), what="machines", bound=next(where), asked=next(where))


def _require_same(plan: PlanId, what: str, bound: str, asked: str) -> None:
    if bound != asked:
        raise BindingRefused(plan=str(plan), what=what, bound=bound, asked=asked)


def _listed(machines: frozenset[str]) -> str:
    return ", ".join(sorted(machines))
