"""Objects, and heads' answers, → Observed. Keeps summaries of what the watch told (never whole pods), by owner."""
