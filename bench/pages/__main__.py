from .pages import main

main()
