"""A program behind the completions API of OpenAI: what is asked, the thread that computes, and the server."""
