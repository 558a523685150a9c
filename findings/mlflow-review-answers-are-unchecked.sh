#!/bin/sh
# mlflow 3.17.2: a review queue takes answers that its question does not offer, from people whom it does not ask.
#
# A good guess: a question with the labels "Correct" and "Wrong" takes one of the two, a queue for "ann" takes her answer
# alone, and an item is complete only with an answer. Seen: any value by anybody is kept as feedback under the question's
# name; a second answer of the same person stands beside the first; an item without an answer is set complete, by somebody
# who is not among the queue's users. Whoever reads labels back must check value, reviewer and doubles.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2
cd "$folder"
DO_NOT_TRACK=1 MLFLOW_DISABLE_TELEMETRY=true "$folder/venv/bin/python" -W ignore - "$folder" 2> "$folder/log" <<'PYTHON' \
    || { tail -5 "$folder/log"; exit 1; }
import sys

import mlflow
from mlflow.entities import AssessmentSource
from mlflow.genai import label_schemas, review_queues

mlflow.set_tracking_uri(f"sqlite:///{sys.argv[1]}/mlflow.db")
experiment = mlflow.set_experiment("reviewed").experiment_id
for question in ("2 + 2?", "3 + 3?"):
    with mlflow.start_span(question) as span:
        span.set_inputs({"question": question})
mlflow.flush_trace_async_logging()
answered, ignored = (trace.info.trace_id for trace in mlflow.search_traces(return_type="list", locations=[experiment]))

labels = label_schemas.InputPassFail(positive_label="Correct", negative_label="Wrong")
schema = label_schemas.create_label_schema("verdict", type="feedback", input=labels, experiment_id=experiment)
queue = review_queues.create_review_queue(
    "first", queue_type="custom", users=["ann"], schema_ids=[schema.schema_id], experiment_id=experiment
)
review_queues.add_items_to_review_queue(queue.queue_id, item_ids=[answered, ignored])

for person, value in (("ann", "Correct"), ("ann", "Wrong"), ("bob", "purple")):
    source = AssessmentSource(source_type="HUMAN", source_id=person)
    mlflow.log_feedback(trace_id=answered, name="verdict", value=value, source=source)
for trace in (answered, ignored):
    review_queues.set_review_queue_item_status(queue.queue_id, item_id=trace, status="complete", completed_by="carl")

found = [(each.source.source_id, each.value) for each in mlflow.get_trace(answered).info.assessments]
items = {item.item_id: item for item in review_queues.list_review_queue_items(queue.queue_id)}
unanswered = mlflow.get_trace(ignored).info.assessments
print("asked of ann, Correct or Wrong; answers kept:", sorted(found))
print("the item without an answer:", str(items[ignored].status), "by", items[ignored].completed_by)
assert sorted(found) == [("ann", "Correct"), ("ann", "Wrong"), ("bob", "purple")], found
assert not unanswered
assert "complete" in str(items[ignored].status).lower()
assert items[ignored].completed_by == "carl"
PYTHON
