"""Driving load exactly: schedule, wire, a scenario's session, workers, and the run that keeps every row."""
