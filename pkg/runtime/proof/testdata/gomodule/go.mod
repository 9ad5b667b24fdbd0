module words.test/words

go 1.26
