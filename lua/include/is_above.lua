-- Whether one number is above another, both as text: the longer, else the later. An empty text is below all.

local function is_above(one, other)
  if #one ~= #other then return #one > #other end
  return one > other
end
