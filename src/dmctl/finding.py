"""From what an operator types to the site, plan, job, point, node or token of the control plane that is meant."""

import re
from collections.abc import Iterable, Iterator
from uuid import UUID

from dmcore.api.jobs import JobView
from dmcore.api.nodes import NodeView
from dmcore.api.operator_client import OperatorClient
from dmcore.api.operators import TokenView
from dmcore.api.plans import PlanView, SiteView
from dmcore.api.points import PointView
from dmcore.model.enums import Role
from dmcore.model.ids import PlanId, PointId
from dmcore.model.points import GOOD
from dmctl.names import LATEST, only

PAGE = 500
MAX_PAGES = 20
"""How far back the beginning of an id is looked for; a whole id is found however old."""

_BEGINNING = re.compile(r"[0-9a-f-]{1,64}")


def find_site(control: OperatorClient, name: str) -> SiteView:
    """The site of this name. Raises NameUnknown."""
    known = {site.name: site for site in control.sites().sites}
    return known[only([name] if name in known else [], name, "site", "site list")]


def find_plan(control: OperatorClient, name: str) -> PlanView:
    """The plan of this name, of this id, or whose id alone begins so. Raises NameUnknown, NameAmbiguous."""
    known = {str(plan.id): plan for plan in control.plans().plans}
    named = [each for each, plan in known.items() if plan.name == name]
    return known[only(named or _beginning(known, name), name, "plan", "plan list")]


def find_node(control: OperatorClient, name: str, role: Role | None = None) -> NodeView:
    """The node (of this role) whose id alone is this or begins so. Raises NameUnknown, NameAmbiguous."""
    known = {str(node.node): node for node in control.nodes().nodes if role in {None, node.role}}
    return known[only(_beginning(known, name), name, role or "node", "node list")]


def find_token(control: OperatorClient, name: str) -> TokenView:
    """The token of this name that is not revoked, or whose id alone begins so. Raises NameUnknown, NameAmbiguous."""
    known = {str(token.id): token for token in control.tokens().tokens}
    named = [each for each, token in known.items() if token.name == name and not token.revoked]
    return known[only(named or _beginning(known, name), name, "token", "token list")]


def find_job(control: OperatorClient, name: str) -> JobView:
    """The job whose id this is, or whose id alone begins so. Raises NameUnknown, NameAmbiguous, NotFound."""
    if whole := _whole(name):
        return control.job(whole)
    known = {str(job.id): job for job in all_jobs(control)} if _BEGINNING.fullmatch(name.lower()) else {}
    return control.job(known[only(_beginning(known, name), name, "job", "job list")].id)  # lists do not tell all of it


def find_point(control: OperatorClient, name: str, plan: PlanId | None = None) -> PointView:
    """The point whose id this is, or whose id alone begins so, or the newest good one.

    Raises:
        NameUnknown, NameAmbiguous, NotFound.
    """
    if whole := _whole(name):
        return control.point(PointId(whole))
    if name == LATEST:
        good = next((each for each in all_points(control, plan) if each.state is GOOD), None)
        known = {LATEST: good} if good else {}
        return known[only(list(known), name, "good point", "point list")]
    looked = all_points(control, plan) if _BEGINNING.fullmatch(name.lower()) else ()
    found = {str(each.id): each for each in looked}
    return found[only(_beginning(found, name), name, "point", "point list")]


def all_jobs(control: OperatorClient) -> Iterator[JobView]:
    """The newest jobs, as many as are looked through."""
    before = None
    for _ in range(MAX_PAGES):
        reply = control.jobs(limit=PAGE, before=before)
        yield from reply.jobs
        if not reply.more:
            return
        before = reply.jobs[-1].id


def all_points(control: OperatorClient, plan: PlanId | None = None) -> Iterator[PointView]:
    """The newest points, as many as are looked through."""
    before = None
    for _ in range(MAX_PAGES):
        reply = control.points(plan=plan, limit=PAGE, before=before)
        yield from reply.points
        if not reply.more:
            return
        before = reply.points[-1].id


def _whole(name: str) -> UUID | None:
    try:
        return UUID(name) if len(name) == 36 else None
    except ValueError:
        return None


def _beginning(known: Iterable[str], name: str) -> list[str]:
    return [each for each in known if name and each.startswith(name.lower())]
