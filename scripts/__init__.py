"""Everything by which a newcomer starts and tests the project; plain Python, no packages needed."""
