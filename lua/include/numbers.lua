-- Numbers in keys, as text: generations, incarnations, versions. Anything may have been written in their place by hand,
-- with which arithmetic would fail.

-- Whether a text is such a number. Below 9e15 (as microseconds, the year 2255) a Lua number is exact.
local function is_number(text)
  return string.find(text, '^[1-9]%d*$') and (#text < 16 or (#text == 16 and text < '9'))
end
