"""The production log: one record for each request, in a database. Gateway and monitor meet here.

SQLite by default (write-ahead log, full sync: an acknowledged record survives `kill -9` and power loss), PostgreSQL by
its URL. Beside the records stand what users said of the answers (`Feedback`, and in it the truths of predictions) and
the replies that an Idempotency-Key brings back (`IdempotentReplies`).
"""

from llmops.production_log.budgets import BudgetState, Reservation, TokenBudgets
from llmops.production_log.database import RecordRefused, database_url, open_engine
from llmops.production_log.erasing import Erased
from llmops.production_log.feedback import VOTES, Feedback, VoteCounts
from llmops.production_log.forgetting import Belongings
from llmops.production_log.log import ProductionLog
from llmops.production_log.predictions import PREDICT, PredictionBatch, is_prediction, read_predictions
from llmops.production_log.record import (
    MOST_USER_CHARACTERS,
    SHADOW,
    LogRecord,
    hidden_if_redacted,
    hidden_user,
    in_batches,
    parse_time,
)
from llmops.production_log.replies import ClaimedKey, IdempotentReplies, KeyInUse, ReplyRow, StoredReply

__all__ = [
    "MOST_USER_CHARACTERS",
    "PREDICT",
    "SHADOW",
    "VOTES",
    "Belongings",
    "BudgetState",
    "ClaimedKey",
    "Erased",
    "Feedback",
    "IdempotentReplies",
    "KeyInUse",
    "LogRecord",
    "PredictionBatch",
    "ProductionLog",
    "RecordRefused",
    "ReplyRow",
    "Reservation",
    "StoredReply",
    "TokenBudgets",
    "VoteCounts",
    "database_url",
    "hidden_if_redacted",
    "hidden_user",
    "in_batches",
    "is_prediction",
    "open_engine",
    "parse_time",
    "read_predictions",
]
