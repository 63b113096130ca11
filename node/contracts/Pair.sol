// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.28;

interface IToken {
    function transfer(address to, uint256 value) external returns (bool);
    function transferFrom(address from, address to, uint256 value) external returns (bool);
}

/// A constant-product market of two tokens with a fee of 0.3%. Tokens and reserves come from genesis (slots 0 to 3), so
/// the order of the state variables is part of what this contract promises. Every swap writes both reserves: swaps
/// of one pair conflict with each other, which is what makes it worth having in a load.
contract Pair {
    address public token0;
    address public token1;
    uint256 public reserve0;
    uint256 public reserve1;

    event Swap(address indexed trader, bool zeroForOne, uint256 amountIn, uint256 amountOut);

    /// What `amountIn` of one token buys of the other now.
    function quote(bool zeroForOne, uint256 amountIn) public view returns (uint256) {
        (uint256 reserveIn, uint256 reserveOut) = zeroForOne ? (reserve0, reserve1) : (reserve1, reserve0);
        uint256 afterFee = amountIn * 997;
        return (afterFee * reserveOut) / (reserveIn * 1000 + afterFee);
    }

    /// Sells `amountIn` of token 0 (or 1) for at least `minimumOut` of the other. The pair needs an allowance.
    function swap(bool zeroForOne, uint256 amountIn, uint256 minimumOut) external returns (uint256 amountOut) {
        amountOut = quote(zeroForOne, amountIn);
        require(amountOut > 0 && amountOut >= minimumOut, "price moved");
        if (zeroForOne) {
            reserve0 += amountIn;
            reserve1 -= amountOut;
        } else {
            reserve1 += amountIn;
            reserve0 -= amountOut;
        }
        (address tokenIn, address tokenOut) = zeroForOne ? (token0, token1) : (token1, token0);
        require(IToken(tokenIn).transferFrom(msg.sender, address(this), amountIn), "payment failed");
        require(IToken(tokenOut).transfer(msg.sender, amountOut), "payout failed");
        emit Swap(msg.sender, zeroForOne, amountIn, amountOut);
    }
}
