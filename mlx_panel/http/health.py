"""`GET /health`: whether the process lives and whether it can answer; 503 with the reason when it cannot."""

from __future__ import annotations

from .. import __version__
from .endpoint import Endpoint


class Health(Endpoint):
    route = "/health"

    async def answer(self, *path: str) -> None:
        house = self.house
        missing = house.pool.missing()
        status = (
            "draining"
            if house.draining
            else "ok"
            if not missing
            else "loading"
            if "failed" not in missing.values()
            else "failed"
        )
        body = {
            "status": status,
            "live": True,
            "ready": status == "ok",
            "version": __version__,
            "requests": len(house.meter),
            "waiting_for": missing,
        }
        if status != "ok":
            self.set_header("Retry-After", "1")
        self.set_header("Cache-Control", "no-store")
        self.reply(body, 200 if status == "ok" else 503)


routes = [(Health.route, Health)]
