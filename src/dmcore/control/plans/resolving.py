"""From the aliases in a plan to where they are: which site has the source, which connector the target."""

from typing import Any

from sqlalchemy import Connection, Row, select

from dmcore.api.plans import PlanSpec
from dmcore.control.errors import AliasAmbiguous, AliasNowhere, NotFound
from dmcore.control.store.tables import nodes, sites
from dmcore.model.enums import Role

MAX_SHOWN = 5


def resolve(connection: Connection, spec: PlanSpec) -> tuple[str, str]:
    """The site and the connector of a plan. Nodes count that are enrolled and have told of their aliases, live or not.

    Raises:
        NotFound: there is no such site or connector.
        AliasNowhere: nobody has the source or the target (there).
        AliasAmbiguous: several have, and the plan does not say which.
    """
    return _site(connection, spec), _connector(connection, spec)


def _site(connection: Connection, spec: PlanSpec) -> str:
    if spec.site and connection.execute(select(sites.c.name).where(sites.c.name == spec.site)).first() is None:
        raise NotFound(noun="site", name=spec.site)
    having = {
        node.site for node in _nodes(connection, Role.APPLIANCE)
        if spec.source in node.sources and spec.site in {None, node.site}
    }  # fmt: skip
    if not having:
        raise AliasNowhere(role=Role.APPLIANCE, noun="source", alias=spec.source)
    return _only("source", spec.source, having, "--site")


def _connector(connection: Connection, spec: PlanSpec) -> str:
    known = {node.id: node for node in _nodes(connection, Role.CONNECTOR)}
    if spec.connector and spec.connector not in known:
        raise NotFound(noun="connector", name=spec.connector)
    having = {
        node.id for node in known.values()
        if spec.target in node.targets and spec.connector in {None, node.id}
    }  # fmt: skip
    if not having:
        raise AliasNowhere(role=Role.CONNECTOR, noun="target", alias=spec.target)
    return _only("target", spec.target, having, "--connector")


def _nodes(connection: Connection, role: Role) -> list[Row[Any]]:
    good = (nodes.c.role == role, nodes.c.revoked_at.is_(None))
    return list(connection.execute(select(nodes).where(*good)).all())


def _only(noun: str, alias: str, places: set[str], option: str) -> str:
    if len(places) > 1:
        shown = sorted(places)[:MAX_SHOWN]
        where = ", ".join(shown) + (f" and {len(places) - len(shown)} more" if len(places) > len(shown) else "")
        raise AliasAmbiguous(noun=noun, alias=alias, where=where, option=option)
    return places.pop()
