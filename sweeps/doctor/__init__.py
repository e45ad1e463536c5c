"""Whether a planned stage can run here, and what to do if not. The door is `mmpo doctor`."""
