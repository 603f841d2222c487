"""What StudioGAN needs to run on today's libraries and machines, applied at run time.

One file a fix; :mod:`topk_plugin.studiogan.fixes.registry` names them all. None edits the checkout.
"""
