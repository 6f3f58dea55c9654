"""The demo in a browser: `session` holds a visitor's conversation about a picture, `app` is the page.

Only `app` imports Gradio (the extra `web`).
"""
