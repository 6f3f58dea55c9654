"""Tabletops as a robot's camera would see them: rendered scenes with the truth about them, and questions to ask.

A reader's path: `kinds` (what can lie on a table), `scene` (a seeded arrangement of things), `render` (its picture,
depth and masks), `questions` (what one can ask about it, with the true answers).
"""
