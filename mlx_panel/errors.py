"""Every error this package raises on purpose, and the one table from error to HTTP status.

    MlxPanelError
    ├── BadRequest                      400  the request cannot be right, whoever asks and whenever
    │   ├── InvalidBody                 400  not JSON, or not an object
    │   ├── InvalidParameter            400  a field has a wrong type or value
    │   ├── UnsupportedParameter        400  a field of the API's vocabulary that is not supported
    │   ├── UnknownField                400  a field outside the vocabulary, where `unknown_fields` says refuse
    │   ├── ContextLengthExceeded       400  prompt and answer do not fit the model's context
    │   ├── EmptyPrompt                 400  nothing to generate from
    │   ├── TemplateError               400  the model's chat template refuses this conversation, or there is none
    │   ├── WrongModelKind              400  an embedding model asked to chat, or the other way round
    │   ├── InvalidSql                  400  DuckDB does not take this SQL, or it is not one SELECT
    │   ├── InvalidGrammar              400  a schema, expression or grammar that cannot be compiled
    │   └── GrammarTooComplex           400  one that would take more to compile or to follow than the limit
    ├── Forbidden                       403
    │   ├── HostRefused                 403  a Host or Origin that does not belong to this server
    │   └── HubRefused                  403  the hub's licence or token does not allow this
    ├── NotFound                        404
    │   ├── ModelNotFound               404
    │   ├── RouteNotFound               404
    │   └── HubModelNotFound            404  the hub has no such model, or hides it
    ├── MethodNotAllowed                405
    ├── Timeout                         408  a clock of `http/guard.py` ran out
    │   └── SqlTimeout                  408  an SQL query took longer than it may
    ├── Conflict                        409  the thing is in a state that does not allow this
    ├── PayloadTooLarge                 413
    │   ├── MemoryExceeded              413  prompt and answer take more memory than the model may have
    │   ├── SqlMemoryExceeded           413  an SQL query took more memory than it may
    │   └── SqlResultTooLarge           413  the result of an SQL query is larger than it may be
    ├── UnsupportedMediaType            415
    ├── UpgradeRequired                 426  a route that speaks WebSocket was asked over plain HTTP
    ├── ClientGone                      499  the client left; no body is ever sent
    ├── InternalError                   500  a defect of this program
    ├── Unavailable                     503  right request, wrong moment
    │   ├── Draining                    503
    │   ├── QueueFull                   503
    │   ├── ModelLoadFailed             503
    │   │   └── CrashLoop               503  it died too often; only a person starts it again
    │   ├── InsufficientMemory          503  the model does not fit beside those that are in use
    │   ├── HubUnavailable              503  the hub does not answer, or this server is offline
    │   ├── SqlFailed                   503  the process of an SQL query ended by itself
    │   ├── WorkerDied                  503
    │   ├── ModelStopped                503  the model was unloaded while it answered
    │   ├── GenerationFailed            503  the engine failed on this request alone
    │   └── ServerUnreachable           503  a client of ours found no server
    ├── AuditError                      --   the audit log cannot be opened, written in time, or read
    │   └── AuditLocked                 --   another process has the file open
    ├── ImportRefused                   --   a GGUF file that cannot be imported, with what is missing
    └── SettingsError                   --   a setting that cannot be used

`code` is the stable, machine-readable name; `title` the class of problem; the message is for a person and never
holds text of a prompt or an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class MlxPanelError(Exception):
    """Base of the tree. `numbers` are figures for the problem document, `field` the parameter at fault."""

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "Error"
    message: ClassVar[str] = "Something went wrong."

    def __init__(self, message: str | None = None, *, field: str | None = None, **numbers: int | float):
        super().__init__(message or self.message)
        self.field = field
        self.numbers = numbers

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.code}>"

    @classmethod
    def revive(cls, numbers: Mapping[str, int | float]) -> MlxPanelError:
        """The error a worker named by its code; only figures cross the process border, never text."""
        return cls(None, field=None, **numbers)


class BadRequest(MlxPanelError):
    code, title = "invalid_request", "Bad Request"
    message = "The request is not valid."


class InvalidBody(BadRequest):
    code, title = "invalid_body", "Invalid Body"
    message = "The body is not a JSON object."


class InvalidParameter(BadRequest):
    code, title = "invalid_parameter", "Invalid Parameter"


class UnsupportedParameter(BadRequest):
    code, title = "unsupported_parameter", "Unsupported Parameter"


class UnknownField(BadRequest):
    code, title = "unknown_field", "Unknown Field"


class ContextLengthExceeded(BadRequest):
    """`numbers` hold `context_length`, `prompt_tokens` and, where it was asked for, `max_tokens`."""

    code, title = "context_length_exceeded", "Context Length Exceeded"
    message = "The request does not fit this model's context."

    @classmethod
    def revive(cls, numbers: Mapping[str, int | float]) -> MlxPanelError:
        # Clients recognise an overflow by the first half of this sentence.
        given = {name: number for name, number in numbers.items() if number}
        text = f"This model's maximum context length is {given.get('context_length')} tokens, but the prompt has at least {given.get('prompt_tokens')} tokens"
        wanted = given.get("max_tokens")
        return cls(text + (f" and {wanted} more were asked for." if wanted else "."), field=None, **given)


class EmptyPrompt(BadRequest):
    code, title = "empty_prompt", "Empty Prompt"
    message = "The prompt holds no token."


class TemplateError(BadRequest):
    code, title = "template_error", "Chat Template Error"
    message = "The model's chat template does not accept this conversation."


class WrongModelKind(BadRequest):
    code, title = "wrong_model_kind", "Wrong Kind of Model"
    message = "This model does not do what this endpoint is for."


class InvalidSql(BadRequest):
    """What is wrong with somebody's SQL, for that person alone: the message may quote it, so it is not logged.

    `numbers` hold `line`, `column` (characters, from 1) and `length` where the place is known.
    """

    code, title = "invalid_sql", "Invalid SQL"


class InvalidGrammar(BadRequest):
    """`numbers` hold `line` and `column` where the place is known."""

    code, title = "invalid_grammar", "Invalid Grammar"
    message = "What the answer is to be held to cannot be compiled."


class GrammarTooComplex(BadRequest):
    code, title = "grammar_too_complex", "Grammar Too Complex"
    message = "What the answer is to be held to is too complex: compiling or following it met a limit."


class Forbidden(MlxPanelError):
    code, title = "forbidden", "Forbidden"


class HostRefused(Forbidden):
    code = "host_refused"


class HubRefused(Forbidden):
    code, title = "hub_refused", "Refused by the Hub"
    message = "The hub does not give this model to everybody: its terms have to be accepted there first."


class NotFound(MlxPanelError):
    code, title = "not_found", "Not Found"
    message = "There is nothing here."


class ModelNotFound(NotFound):
    code, title = "model_not_found", "Model Not Found"


class HubModelNotFound(NotFound):
    code, title = "hub_model_not_found", "Model Not Found on the Hub"
    message = "The hub has no model of this name, or it is private and the token does not open it."


class RouteNotFound(NotFound):
    code, title = "route_not_found", "Route Not Found"
    message = "There is no such route."


class MethodNotAllowed(MlxPanelError):
    code, title = "method_not_allowed", "Method Not Allowed"


class UpgradeRequired(MlxPanelError):
    code, title = "upgrade_required", "Upgrade Required"
    message = "This route speaks WebSocket."


class Timeout(MlxPanelError):
    """`numbers` holds `timeout_seconds`."""

    code, title = "timeout", "Request Timeout"


class SqlTimeout(Timeout):
    code, title = "sql_timeout", "SQL Timeout"
    message = "The query took longer than it may."


class Conflict(MlxPanelError):
    code, title = "conflict", "Conflict"


class PayloadTooLarge(MlxPanelError):
    code, title = "payload_too_large", "Payload Too Large"


class MemoryExceeded(PayloadTooLarge):
    """`numbers` hold `needed_bytes`, `available_bytes` and `largest_context`, the tokens that would fit."""

    code, title = "memory_exceeded", "Memory Exceeded"
    message = "The request does not fit into the memory this model may have."

    @classmethod
    def revive(cls, numbers: Mapping[str, int | float]) -> MlxPanelError:
        needed, room = numbers.get("needed_bytes", 0), numbers.get("available_bytes", 0)
        return cls(
            f"The request needs {needed / 1e9:.2f} GB for its context, and {room / 1e9:.2f} GB are available; the largest context that fits has {numbers.get('largest_context')} tokens.",
            field=None,
            **numbers,
        )


class SqlMemoryExceeded(PayloadTooLarge):
    """`numbers` holds `limit_bytes`."""

    code, title = "sql_memory_exceeded", "SQL Memory Exceeded"
    message = "The query took more memory than it may."


class SqlResultTooLarge(PayloadTooLarge):
    """`numbers` holds `limit_bytes`."""

    code, title = "sql_result_too_large", "SQL Result Too Large"
    message = "The result of the query is larger than it may be."


class UnsupportedMediaType(MlxPanelError):
    code, title = "unsupported_media_type", "Unsupported Media Type"
    message = "Send the body as application/json."


class ClientGone(MlxPanelError):
    code, title = "client_gone", "Client Closed Request"
    message = "The client left before the answer was complete."


class InternalError(MlxPanelError):
    code, title = "internal_error", "Internal Error"
    message = "The server failed on this request. Its log names the place; the request id finds it."


class Unavailable(MlxPanelError):
    code, title = "unavailable", "Service Unavailable"
    message = "The server cannot take this request now."


class Draining(Unavailable):
    code = "draining"
    message = "The server is shutting down."


class QueueFull(Unavailable):
    code = "queue_full"
    message = "Too many requests are waiting."


class ModelLoadFailed(Unavailable):
    code = "model_load_failed"
    message = "The model could not be loaded."


class CrashLoop(ModelLoadFailed):
    code = "crash_loop"
    message = "The process of this model ended too often and is not started again by itself."


class InsufficientMemory(Unavailable):
    """`numbers` hold `needed_bytes`, `available_bytes` and `largest_context`."""

    code = "insufficient_memory"
    message = "There is not enough memory for this model beside those in use."


class HubUnavailable(Unavailable):
    code = "hub_unavailable"
    message = "The hub does not answer."


class SqlFailed(Unavailable):
    code = "sql_failed"
    message = "The process of this query ended before it had an answer."


class WorkerDied(Unavailable):
    code = "worker_died"
    message = "The process running this model ended. It is being started again; send the request once more."


class ModelStopped(Unavailable):
    code = "model_stopped"
    message = "The model was unloaded before the answer was complete."


class GenerationFailed(Unavailable):
    code = "generation_failed"
    message = "Generating this answer failed."


class ServerUnreachable(Unavailable):
    code = "server_unreachable"


class AuditError(MlxPanelError):
    code, title = "audit_error", "Audit Log Unavailable"
    message = "The audit log is not available."


class AuditLocked(AuditError):
    """`numbers` holds `pid` where DuckDB names the process."""

    code, title = "audit_locked", "Audit Log In Use"
    message = "The audit log is in use by another process."


class ImportRefused(MlxPanelError):
    code, title = "import_refused", "Import Refused"


class SettingsError(MlxPanelError):
    code, title = "settings_error", "Settings Error"


HTTP_STATUS: dict[type[MlxPanelError], int] = {
    BadRequest: 400,
    Forbidden: 403,
    NotFound: 404,
    MethodNotAllowed: 405,
    Timeout: 408,
    Conflict: 409,
    PayloadTooLarge: 413,
    UnsupportedMediaType: 415,
    UpgradeRequired: 426,
    ClientGone: 499,
    Unavailable: 503,
    MlxPanelError: 500,
}


def status_of(error: MlxPanelError) -> int:
    """HTTP status of an error, found through its class's line of descent."""
    return next(HTTP_STATUS[kind] for kind in type(error).__mro__ if kind in HTTP_STATUS)


def _tree(root: type[MlxPanelError]) -> dict[str, type[MlxPanelError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


BY_CODE = _tree(MlxPanelError)
