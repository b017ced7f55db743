"""What an editor asks about a text that is being written: pure functions over texts and positions.

:mod:`.document` keeps a text and what is known of it, by declaration, from edit to edit; a module for each question reads that;
:mod:`.server` speaks the Language Server Protocol, and is the only one that knows it.
"""
