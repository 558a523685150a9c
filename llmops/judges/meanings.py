"""What each judge's scorer type gives, in words for the reference page."""

from __future__ import annotations

from collections.abc import Mapping

_RAGAS = {
    "AgentGoalAccuracy": "whether the conversation reached the goal that the expected answer states",
    "AgentGoalAccuracyWithReference": "whether the conversation reached the goal that the expected answer states",
    "AgentGoalAccuracyWithoutReference": "whether the conversation reached the goal that the user had",
    "AnswerAccuracy": "how far the output agrees with the expected answer, asked twice with the two swapped",
    "AnswerCorrectness": "F1 of the statements that output and expected answer share, plus their semantic similarity",
    "AnswerRelevancy": "cosine between the question and questions that the judge derives from the output; 0 if evasive",
    "ContextEntityRecall": "the share of the expected answer's entities that the contexts contain",
    "ContextPrecision": "average precision of the contexts; relevant are those useful for the expected answer",
    "ContextPrecisionWithReference": "the same as ContextPrecision",
    "ContextPrecisionWithoutReference": "average precision of the contexts; relevant are those useful for the output",
    "ContextRecall": "the share of the expected answer's statements that the contexts support",
    "ContextRelevance": "how far the contexts contain what the question asks for, the mean of two judgements",
    "ContextUtilization": "the same as ContextPrecisionWithoutReference",
    "DomainSpecificRubrics": "points from 1 to 5 by your own rubrics, scaled to 0 to 1",
    "FactualCorrectness": "F1, precision or recall of the claims that output and expected answer share",
    "Faithfulness": "the share of the output's statements that the contexts support",
    "InstanceSpecificRubrics": "points from 1 to 5 by the row's `expectations.rubrics`, scaled to 0 to 1",
    "NoiseSensitivity": "the share of the output's statements that are wrong and come from the contexts",
    "ResponseGroundedness": "how far the contexts support the output, the mean of two judgements",
    "RubricsScoreWithReference": "points from 1 to 5 by rubrics, given the expected answer, scaled to 0 to 1",
    "RubricsScoreWithoutReference": "points from 1 to 5 by rubrics, scaled to 0 to 1",
    "SQLSemanticEquivalence": "whether the output is an SQL query equivalent to the expected one",
    "SemanticSimilarity": "cosine of the embeddings of output and expected answer; no judge is asked",
    "SummaryScore": "share of questions about the sources that the output answers, less for length: never quite 1",
    "TopicAdherence": "whether the conversation stays on `expectations.reference_topics`",
}
_MLFLOW = {
    "Completeness": "whether the output answers everything that was asked",
    "ConversationCompleteness": "whether the conversation answers everything that the user asked",
    "ConversationalGuidelines": "whether the assistant follows the guidelines throughout the conversation",
    "ConversationalRoleAdherence": "whether the assistant stays in its role",
    "ConversationalSafety": "whether the assistant says nothing harmful in the conversation",
    "Correctness": "whether the output contains the row's `expectations.expected_facts`, or else its first expected"
    " answer",
    "Equivalence": "whether output and first expected answer mean the same",
    "ExpectationsGuidelines": "whether the output follows the row's `expectations.guidelines`",
    "Fluency": "whether the output is well written",
    "Guidelines": "whether the output follows the guidelines",
    "RelevanceToQuery": "whether the output answers the question",
    "RetrievalGroundedness": "whether the contexts support the output",
    "RetrievalRelevance": "the share of the contexts that are relevant to the question",
    "RetrievalSufficiency": "whether the contexts contain everything that the expected answer needs",
    "Safety": "whether the output is harmless",
    "Summarization": "whether the output is a faithful summary of the input",
    "UserFrustration": "whether the user is satisfied at the end of the conversation, or was never frustrated",
    "make_judge": "the result of your own `instructions`, sent to the judge as MLflow does. They use at least one of"
    " `{{ inputs }}`, `{{ outputs }}` and `{{ expectations }}`, or `{{ conversation }}` with at most expectations; the"
    " answer is yes or no unless `scale` says otherwise, as for `judge.rubric`",
}
MEANINGS: Mapping[str, str] = {
    "judge.rubric": "whether the output fulfils a rubric, the `instructions`, in which `{{ input }}`, `{{ output }}`,"
    " `{{ expected }}` and `{{ contexts }}` are replaced by the row's. scale: pass_fail; two whole numbers, worst and"
    " best; or a list of labels, of which `good` names those that count as right",
    **{f"ragas.{name}": meaning for name, meaning in _RAGAS.items()},
    **{f"mlflow.{name}": meaning for name, meaning in _MLFLOW.items()},
}
