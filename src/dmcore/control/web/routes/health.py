"""Whether it answers. Without a token."""

from fastapi import APIRouter

from dmcore.api.base import API_VERSION
from dmcore.api.operators import Health
from dmcore.control.web.routes.access import REFUSALS, PlaneOf

router = APIRouter(prefix="/v1/health", tags=["health"], responses=REFUSALS)


@router.get("")
def health(plane: PlaneOf) -> Health:
    """Who this is."""
    return Health(control=plane.control, api=API_VERSION)
