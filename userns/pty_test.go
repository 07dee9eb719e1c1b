package userns

func shell() int { return 1 }
