"""Scenarios that come with perfkit, one file each, as a user writes them (`drive.scenario`)."""
