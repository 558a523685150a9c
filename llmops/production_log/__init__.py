"""The production log: one record for each request, in a database. The gateway writes it, the monitor reads it.

SQLite by default (write-ahead log, full sync: an acknowledged record survives `kill -9` and power loss), PostgreSQL by
its URL. The database also holds users' feedback on answers (`Feedback`, which includes the true values of predictions)
and the replies that are returned for a repeated Idempotency-Key (`IdempotentReplies`).
"""

from llmops.production_log.database import RecordRefused, open_engine
from llmops.production_log.forgetting import Belongings
from llmops.production_log.log import ProductionLog, read_predictions
from llmops.production_log.record import (
    PREDICT,
    SHADOW,
    Feedback,
    LogRecord,
    PredictionBatch,
    VoteCounts,
    hidden_if_redacted,
    in_batches,
    is_prediction,
    moment_of,
    parse_time,
    pseudonym_of,
)
from llmops.production_log.replies import ClaimedKey, ReplyRow, StoredReply
from llmops.production_log.tables import insert_into, make_tables

__all__ = [
    "PREDICT",
    "SHADOW",
    "Belongings",
    "ClaimedKey",
    "Feedback",
    "LogRecord",
    "PredictionBatch",
    "ProductionLog",
    "RecordRefused",
    "ReplyRow",
    "StoredReply",
    "VoteCounts",
    "hidden_if_redacted",
    "in_batches",
    "insert_into",
    "is_prediction",
    "make_tables",
    "moment_of",
    "open_engine",
    "parse_time",
    "pseudonym_of",
    "read_predictions",
]
