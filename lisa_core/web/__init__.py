"""The demo in a browser: `session` is what one visitor says about one picture, `app` is the page around it.

Only `app` knows Gradio (the extra `web`).
"""
