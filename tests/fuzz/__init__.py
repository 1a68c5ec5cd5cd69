"""Generated requests beside other parsers, and coverage-guided fuzzing of wire/."""
