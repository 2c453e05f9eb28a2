"""The handlers that the dashboard is tried with, and shown with: those of a shop, some of which fail."""

from __future__ import annotations

from typing import Any, Literal

import trio

from tq.context import Context
from tq.handlers import TaskQueue

app = TaskQueue()


class AddressError(Exception):
    """Where a message was to go does not exist."""


@app.schedule("30 7 * * MON-FRI", tz="Europe/Madrid", name="morning-mail", payload={"to": "all@example.org"})
@app.task("email", queue="mail", max_attempts=1)
async def email(to: str, subject: str = "Hello", urgent: bool = False) -> dict[str, str]:
    """Send one message."""
    await trio.sleep(0.02)
    if not to.endswith(".org"):
        raise AddressError(f"no mailbox takes messages for {to}")
    return {"message_id": f"{to}.1"}


@app.task("invoice", queue="billing", max_attempts=3, retry={"base": 3600, "jitter": 0})
async def invoice(order: int, currency: Literal["EUR", "USD"] = "EUR", lines: list[str] | None = None) -> int:
    """Write the invoice of an order. The number that it gets is the result."""
    await trio.sleep(0.03)
    if order % 7 == 3:
        raise TimeoutError("the ledger of the bank did not answer")
    return 9007199254740993 + order


@app.schedule("0 */6 * * *", payload={"months": 3})
@app.schedule(every=900, name="quarter-hour", payload={"months": 1})
@app.task("report", queue="slow", timeout=600)
async def report(months: int, ctx: Context) -> dict[str, Any]:
    """Add up the sales of some months, one at a time."""
    for month in range(months):
        ctx.progress(month / months, f"month {month + 1} of {months}")
        ctx.log(f"read {1200 + month * 37} orders of month {month + 1}")
        await trio.sleep(1)
    return {"months": months, "total": "1894223.10"}


@app.task("catalogue", queue="slow", timeout=600)
async def catalogue(payload: Any, ctx: Context) -> str:
    """Import a catalogue: a child for each of its pages."""
    for page in range(3):
        await ctx.submit("page", {"number": page}, id=f"{ctx.task_id}:{page}")
    return "3 pages"


@app.task("page", queue="slow")
async def page(number: int) -> int:
    """Import one page of a catalogue."""
    return number


@app.task("nap", queue="slow", timeout=600)
async def nap(seconds: float) -> None:
    """Do nothing for a while."""
    await trio.sleep(seconds)
