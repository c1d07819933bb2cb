"""Numbers of several runs side by side: which of them compare, how far apart they are, and how sure that is.

Nothing here imports torch: what is compared has been measured, and lies in files.
"""
