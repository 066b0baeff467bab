"""How the node stands at this moment: looked at, written as a page, and kept on the terminal.

Judges nothing beyond a colour; what is amiss and what to do about it is the doctor's to say.
"""
