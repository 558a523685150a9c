#!/usr/bin/env bash
# What action.yml runs: the evals of a pull request's changed prompts, and one comment with their comparisons, which is
# found again by its marker. Ends as `llmops eval changed` does.
# Environment: BASE (commit), FOLDER (the project's, in the repository), INCONCLUSIVE (fail or pass), PULL_REQUEST (number; empty: no comment), GH_TOKEN; and of
# GitHub GITHUB_REPOSITORY and GITHUB_STEP_SUMMARY.
set -euo pipefail
marker="<!-- llmops evals of ${FOLDER//[^A-Za-z0-9._\/-]/_} -->" # each project of a repository has its own comment
most=60000 # GitHub takes comments of 65,536 characters
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

post() {
    local comments="repos/$GITHUB_REPOSITORY/issues/$PULL_REQUEST/comments" id
    {
        echo "$marker"
        head -c "$most" "$folder/evals.md" | iconv -c -f UTF-8 -t UTF-8 || true # not half a character
        if [ "$(wc -c < "$folder/evals.md")" -gt "$most" ]; then printf '\n\n… the rest is in the summary of the job\n'; fi
    } > "$folder/comment.md"
    id=$(gh api --paginate "$comments" --jq ".[] | select(.body | startswith(\"$marker\")) | .id") || return 1
    id=${id%%$'\n'*}
    if [ -n "$id" ]; then
        gh api --silent --method PATCH "repos/$GITHUB_REPOSITORY/issues/comments/$id" --field "body=@$folder/comment.md"
    else
        gh api --silent --method POST "$comments" --field "body=@$folder/comment.md"
    fi
}

code=0
llmops eval changed --base "$BASE" --inconclusive "$INCONCLUSIVE" --markdown "$folder/evals.md" || code=$?
if [ -s "$folder/evals.md" ]; then # else it could not run, and has said why
    cat "$folder/evals.md" >> "${GITHUB_STEP_SUMMARY:-/dev/null}"
    if [ -n "${PULL_REQUEST:-}" ] && ! post; then # as where the pull request comes from a fork
        echo "::warning::the comparison could not be posted as a comment; it is in the summary of the job"
    fi
fi
exit "$code"
