"""Sites."""

from fastapi import APIRouter

from dmcore.api.plans import SiteEdit, SiteSpec, SitesReply, SiteView
from dmcore.control.plans import sites
from dmcore.control.web.routes.access import REFUSALS, Admin, PlaneOf, Viewer
from dmcore.control.web.routes.queries import SitePath

router = APIRouter(prefix="/v1/sites", tags=["sites"], responses=REFUSALS)


@router.get("")
def list_sites(plane: PlaneOf, _: Viewer) -> SitesReply:
    """All sites."""
    with plane.database.read() as connection:
        return sites.list_sites(connection)


@router.post("", status_code=201)
def create_site(plane: PlaneOf, operator: Admin, spec: SiteSpec) -> SiteView:
    """A place where nodes live. Needs admin."""
    with plane.database.write() as connection:
        return sites.create(connection, plane.database.now(connection), spec, operator.actor)


@router.patch("/{name}")
def edit_site(plane: PlaneOf, operator: Admin, name: SitePath, change: SiteEdit) -> SiteView:
    """Another bandwidth limit. Needs admin."""
    with plane.database.write() as connection:
        return sites.edit(connection, plane.database.now(connection), name, change, operator.actor)
