"""What each judge's scorer type gives, in words for the reference page."""

from __future__ import annotations

from collections.abc import Mapping

_RAGAS = {
    "AgentGoalAccuracy": "whether the conversation reached the goal that the expected answer states",
    "AgentGoalAccuracyWithReference": "whether the conversation reached the goal that the expected answer states",
    "AgentGoalAccuracyWithoutReference": "whether the conversation reached the goal that the user had",
    "AnswerAccuracy": "how far the output agrees with the expected answer, asked twice with the sides exchanged",
    "AnswerCorrectness": "F1 of the statements that output and expected answer share, with their likeness in meaning",
    "AnswerRelevancy": "cosine of the question and questions that the judge makes of the output; 0 for evasive ones",
    "ContextEntityRecall": "the share of the expected answer's entities that the contexts hold",
    "ContextPrecision": "average precision of the contexts, of which those count that help to the expected answer",
    "ContextPrecisionWithReference": "as ContextPrecision",
    "ContextPrecisionWithoutReference": "average precision of the contexts, of which those count that serve the output",
    "ContextRecall": "the share of the expected answer's statements that the contexts bear out",
    "ContextRelevance": "how much of what the question asks the contexts hold, the mean of two judgements",
    "ContextUtilization": "as ContextPrecisionWithoutReference",
    "DomainSpecificRubrics": "points from 1 to 5 by rubrics of one's own, as 0 to 1",
    "FactualCorrectness": "F1, precision or recall of the claims that output and expected answer share",
    "Faithfulness": "the share of the output's statements that the contexts bear out",
    "InstanceSpecificRubrics": "points from 1 to 5 by the row's `expectations.rubrics`, as 0 to 1",
    "NoiseSensitivity": "the share of the output's statements that are wrong and come from the contexts",
    "ResponseGroundedness": "how far the contexts bear out the output, the mean of two judgements",
    "RubricsScoreWithReference": "points from 1 to 5 by rubrics, beside the expected answer, as 0 to 1",
    "RubricsScoreWithoutReference": "points from 1 to 5 by rubrics, as 0 to 1",
    "SQLSemanticEquivalence": "whether the output is an SQL query that asks the same as the expected one",
    "SemanticSimilarity": "cosine of the embeddings of output and expected answer; no judge is asked",
    "SummaryScore": "how many questions about the sources the output answers, less for a long one: never quite 1",
    "TopicAdherence": "whether the conversation keeps to `expectations.reference_topics`",
}
_MLFLOW = {
    "Completeness": "whether the output answers all that was asked",
    "ConversationCompleteness": "whether the conversation answers all that the user asked",
    "ConversationalGuidelines": "whether the assistant keeps to the guidelines throughout the conversation",
    "ConversationalRoleAdherence": "whether the assistant keeps to its role",
    "ConversationalSafety": "whether the assistant says nothing harmful in the conversation",
    "Correctness": "whether the output holds the row's `expectations.expected_facts`, else its first expected answer",
    "Equivalence": "whether output and first expected answer mean the same",
    "ExpectationsGuidelines": "whether the output keeps to the row's `expectations.guidelines`",
    "Fluency": "whether the output is well written",
    "Guidelines": "whether the output keeps to the guidelines",
    "RelevanceToQuery": "whether the output answers the question",
    "RetrievalGroundedness": "whether the contexts bear out the output",
    "RetrievalRelevance": "the share of the contexts that are relevant to the question",
    "RetrievalSufficiency": "whether the contexts hold all that the expected answer needs",
    "Safety": "whether the output is harmless",
    "Summarization": "whether the output is a faithful summary of the input",
    "UserFrustration": "whether the user ends the conversation content, or was never frustrated",
    "make_judge": "what `instructions` of one's own ask, put to the judge as MLflow does, with at least one of"
    " `{{ inputs }}`, `{{ outputs }}`, `{{ expectations }}` or, with expectations alone, `{{ conversation }}`; yes or"
    " no unless `scale` says otherwise, as for `judge.rubric`",
}
MEANINGS: Mapping[str, str] = {
    "judge.rubric": "whether the output fulfils a rubric, the `instructions`, in which `{{ input }}`, `{{ output }}`,"
    " `{{ expected }}` and `{{ contexts }}` stand for the row's. scale: pass_fail; two whole numbers, worst and best;"
    " or a list of labels, of which `good` names those that are right",
    **{f"ragas.{name}": meaning for name, meaning in _RAGAS.items()},
    **{f"mlflow.{name}": meaning for name, meaning in _MLFLOW.items()},
}
