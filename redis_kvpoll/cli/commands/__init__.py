"""The commands of ``kvpoll``. The modules beside this folder are what they share."""
