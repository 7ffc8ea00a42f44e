"""From what was asked for to a student: opened, checked, searched, trained, scored, saved."""
