"""The main job's steps, each wiring registry, engines and evaluation together. Used by the command line alone, which
is the composition root; nothing else imports it."""
