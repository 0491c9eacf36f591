"""Write files safely: pictures with a record inside, clips, and the targets of `generate`."""
