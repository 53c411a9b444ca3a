"""Images: fetch them (sources), describe them (manifest), divide them (split), open them (loading)."""
